{{/* Names and labels. `component` is the service in the project's words: job_api, …, or migrations and topics. */}}

{{- define "cdds.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "cdds.name" -}}
{{- printf "%s-%s" (include "cdds.fullname" .root) (replace "_" "-" .component) -}}
{{- end -}}

{{/* What pods are selected by; it can't change in an upgrade. */}}
{{- define "cdds.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "cdds.labels" -}}
{{ include "cdds.selector" . }}
app.kubernetes.io/part-of: cdds
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name (replace "+" "_" .root.Chart.Version) }}
{{- end -}}

{{/* Of pods: nothing that changes with the chart alone, for a change restarts them. */}}
{{- define "cdds.podLabels" -}}
{{ include "cdds.selector" . }}
app.kubernetes.io/part-of: cdds
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- with .root.Values.pods.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "cdds.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Those with a schema and a consumer group, as opposed to the console. */}}
{{- define "cdds.stateful" -}}
{{- if ne . "console" -}}yes{{- end -}}
{{- end -}}

{{/* The topics that each service consumes. */}}
{{- define "cdds.topics" -}}
job_api: [scheduler.runs.v1, exporter.runs.v1]
scheduler: [job_api.jobs.v1, exporter.runs.v1]
exporter: [scheduler.runs.v1, job_api.certificates.v1]
history: [job_api.jobs.v1, job_api.certificates.v1, scheduler.runs.v1, exporter.runs.v1]
{{- end -}}

{{/* Whether KEDA decides how many replicas `service` has. */}}
{{- define "cdds.autoscaled" -}}
{{- $service := index .root.Values.services .component -}}
{{- if and .root.Values.autoscaling.enabled $service.autoscaling $service.autoscaling.enabled -}}yes{{- end -}}
{{- end -}}
