{{/* The environment of a container, and the files it names. */}}

{{/* Where Secrets are referred to: a list of `{name: CDDS_…, secret, key}` for `component`. */}}
{{- define "cdds.references" -}}
{{- $service := index .root.Values.services .component -}}
{{- $prefix := printf "CDDS_%s_" (upper .component) -}}
{{- $references := list -}}
{{- if include "cdds.stateful" .component -}}
{{- $references = append $references (merge (dict "name" (print $prefix "POSTGRES")) $service.postgres) -}}
{{- if eq .root.Values.kafka.security "sasl_ssl" -}}
{{- $references = append $references (merge (dict "name" (print $prefix "KAFKA_PASSWORD")) $service.kafka.password) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .component "exporter") $service.maskingKey.secret -}}
{{- $references = append $references (merge (dict "name" (print $prefix "MASKING_KEY")) $service.maskingKey) -}}
{{- end -}}
{{- if eq .component "console" -}}
{{- $references = append $references (merge (dict "name" (print $prefix "SESSION_KEYS")) $service.sessionKeys) -}}
{{- if $service.clientId -}}
{{- $references = append $references (merge (dict "name" (print $prefix "CLIENT_SECRET")) $service.clientSecret) -}}
{{- end -}}
{{- end -}}
{{- toYaml $references -}}
{{- end -}}

{{/* The same for a job, in the names of the settings of services that its command reads. */}}
{{- define "cdds.jobReferences" -}}
{{- $job := index .root.Values .component -}}
{{- $references := list -}}
{{- range $service, $reference := $job.postgres -}}
{{- $references = append $references (merge (dict "name" (printf "CDDS_%s_POSTGRES" (upper $service))) $reference) -}}
{{- end -}}
{{- if and $job.kafka (eq .root.Values.kafka.security "sasl_ssl") -}}
{{- $references = append $references (merge (dict "name" "CDDS_JOB_API_KAFKA_PASSWORD") $job.kafka.password) -}}
{{- end -}}
{{- toYaml $references -}}
{{- end -}}

{{/* DSNs of sources, in the same form. */}}
{{- define "cdds.dsns" -}}
{{- $references := list -}}
{{- range $name, $reference := .Values.sources.dsns -}}
{{- $references = append $references (merge (dict "name" $name) $reference) -}}
{{- end -}}
{{- toYaml $references -}}
{{- end -}}

{{/* References as environment variables. */}}
{{- define "cdds.fromSecrets" -}}
{{- range . }}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .secret | quote }}, key: {{ .key | quote }}}}
{{- end }}
{{- end -}}

{{/* References as files named like the variables: the volume `name`, mounted at /etc/cdds/<name>. */}}
{{- define "cdds.secretFiles" -}}
{{- if .references }}
- name: {{ .name }}
  projected:
    defaultMode: 0400
    sources:
      {{- range .references }}
      - secret:
          name: {{ .secret | quote }}
          items: [{key: {{ .key | quote }}, path: {{ .name }}}]
      {{- end }}
{{- end }}
{{- end -}}

{{/* A value of `settings` as a variable has it: structures as JSON, and large numbers without an exponent. */}}
{{- define "cdds.text" -}}
{{- if or (kindIs "map" .) (kindIs "slice" .) -}}{{- toJson . -}}
{{- else if kindIs "float64" . -}}{{- toJson . -}}
{{- else -}}{{- toString . -}}{{- end -}}
{{- end -}}

{{/* How Kafka is reached: `prefix` of the variables, `kafka` user. The password is a reference, see above. */}}
{{- define "cdds.kafka" -}}
{{- $kafka := .root.Values.kafka -}}
- {name: {{ .prefix }}KAFKA, value: {{ $kafka.bootstrap | quote }}}
- {name: {{ .prefix }}KAFKA_SECURITY, value: {{ $kafka.security }}}
{{- if ne $kafka.security "plaintext" }}
{{- if or $kafka.ca.secret $kafka.ca.configMap }}
- {name: {{ .prefix }}KAFKA_CA, value: /etc/cdds/kafka/ca.crt}
{{- end }}
{{- end }}
{{- if and (eq $kafka.security "ssl") .kafka.certificate.secret }}
- {name: {{ .prefix }}KAFKA_CERTIFICATE, value: /etc/cdds/kafka-user/tls.crt}
- {name: {{ .prefix }}KAFKA_KEY, value: /etc/cdds/kafka-user/tls.key}
{{- end }}
{{- if eq $kafka.security "sasl_ssl" }}
- {name: {{ .prefix }}KAFKA_MECHANISM, value: {{ $kafka.mechanism }}}
- {name: {{ .prefix }}KAFKA_USERNAME, value: {{ .kafka.username | quote }}}
{{- end }}
- {name: {{ .prefix }}KAFKA_PARTITIONS, value: {{ $kafka.partitions | quote }}}
- {name: {{ .prefix }}KAFKA_REPLICATION, value: {{ $kafka.replication | quote }}}
{{- end -}}

{{/* The whole environment of a service. */}}
{{- define "cdds.environment" -}}
{{- $values := .root.Values -}}
{{- $service := index $values.services .component -}}
{{- $prefix := printf "CDDS_%s_" (upper .component) -}}
- {name: {{ $prefix }}HTTP_HOST, value: {{ $values.http.host | quote }}}
- {name: {{ $prefix }}HTTP_PORT, value: {{ $values.http.port | quote }}}
- {name: {{ $prefix }}LOG_FORMAT, value: {{ $values.logs.format }}}
- {name: {{ $prefix }}LOG_LEVEL, value: {{ $values.logs.level }}}
- {name: {{ $prefix }}TRACES, value: {{ $values.traces.mode | quote }}}
{{- if eq $values.traces.mode "otlp" }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ $values.traces.endpoint | quote }}}
{{- end }}
- {name: {{ $prefix }}AUTH_ISSUER, value: {{ $values.auth.issuer | quote }}}
- {name: {{ $prefix }}AUTH_AUDIENCE, value: {{ $values.auth.audience | quote }}}
{{- if $values.auth.jwksUrl }}
- {name: {{ $prefix }}AUTH_JWKS_URL, value: {{ $values.auth.jwksUrl | quote }}}
{{- else }}
- {name: {{ $prefix }}AUTH_PUBLIC_KEY, value: /etc/cdds/auth/token.pem}
{{- end }}
{{- with $values.insecure }}
- {name: {{ $prefix }}INSECURE, value: {{ join "," . | quote }}}
{{- end }}
{{- if include "cdds.stateful" .component }}
{{ include "cdds.kafka" (dict "root" .root "prefix" $prefix "kafka" $service.kafka) }}
- {name: {{ $prefix }}KAFKA_TOPICS, value: expect}
- {name: {{ $prefix }}MIGRATE, value: "false"}
{{- if ne .component "history" }}
- {name: {{ $prefix }}SOURCES, value: /etc/cdds/sources/sources.toml}
{{- end }}
{{- end }}
{{- if eq .component "exporter" }}
- {name: {{ $prefix }}OBJECTS, value: {{ $values.objects.location | quote }}}
{{- with $values.objects.options }}
- {name: {{ $prefix }}OBJECT_OPTIONS, value: {{ toJson . | quote }}}
{{- end }}
{{- with $values.objects.credentials }}
{{- if .secret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ .secret | quote }}, key: {{ .accessKeyId | quote }}}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .secret | quote }}, key: {{ .secretAccessKey | quote }}}}
{{- end }}
{{- end }}
- {name: {{ $prefix }}SIGNING_KEY, value: /etc/cdds/signing/key.pem}
- {name: {{ $prefix }}CONCURRENT_RUNS, value: {{ $service.concurrentRuns | quote }}}
- {name: {{ $prefix }}GRACE, value: PT{{ $service.graceSeconds }}S}
{{- end }}
{{- if eq .component "console" }}
{{- range $owner := list "job_api" "exporter" "history" }}
- {name: {{ $prefix }}{{ upper $owner }}, value: "http://{{ include "cdds.name" (dict "root" $.root "component" $owner) }}:{{ $values.http.port }}"}
{{- end }}
- {name: {{ $prefix }}PUBLIC_URL, value: {{ $service.publicUrl | quote }}}
{{- with $service.clientId }}
- {name: {{ $prefix }}CLIENT_ID, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- range $name, $value := $service.settings }}
- {name: {{ $prefix }}{{ $name }}, value: {{ include "cdds.text" $value | quote }}}
{{- end }}
{{- if $values.secretsAsFiles }}
- {name: CDDS_SECRETS, value: /etc/cdds/secrets}
{{- else }}
{{- include "cdds.fromSecrets" (include "cdds.references" . | fromYamlArray) }}
{{- if eq .component "exporter" }}
{{- include "cdds.fromSecrets" (include "cdds.dsns" .root | fromYamlArray) }}
{{- end }}
{{- end }}
{{- with $service.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The certificate authority of a server and the certificate of a client, as volumes and mounts; see cdds.files. */}}
{{- define "cdds.authority" -}}
- name: {{ .name }}
{{- if .from.secret }}
  secret: {secretName: {{ .from.secret | quote }}, items: [{key: {{ .from.key | quote }}, path: ca.crt}]}
{{- else }}
  configMap: {name: {{ .from.configMap | quote }}, items: [{key: {{ .from.key | quote }}, path: ca.crt}]}
{{- end }}
{{- end -}}

{{/* Volumes of a container that speaks with `postgres` and with Kafka as the user `kafka`; either may be left out. */}}
{{- define "cdds.serverFiles" -}}
{{- $values := .root.Values -}}
{{- if and .postgres (or $values.postgres.ca.secret $values.postgres.ca.configMap) }}
{{ include "cdds.authority" (dict "name" "postgres" "from" $values.postgres.ca) }}
{{- end }}
{{- if and .kafka (ne $values.kafka.security "plaintext") (or $values.kafka.ca.secret $values.kafka.ca.configMap) }}
{{ include "cdds.authority" (dict "name" "kafka" "from" $values.kafka.ca) }}
{{- end }}
{{- if and .kafka (eq $values.kafka.security "ssl") .kafka.certificate.secret }}
- name: kafka-user
  secret:
    secretName: {{ .kafka.certificate.secret | quote }}
    items:
      - {key: {{ .kafka.certificate.certificate | quote }}, path: tls.crt}
      - {key: {{ .kafka.certificate.key | quote }}, path: tls.key}
{{- end }}
- name: temporary
  emptyDir: {sizeLimit: {{ $values.pods.temporary }}}
{{- end -}}

{{/* All volumes of a service. Each is mounted at /etc/cdds/<name>, see cdds.mounts. */}}
{{- define "cdds.volumes" -}}
{{- $values := .root.Values -}}
{{- $service := index $values.services .component -}}
{{- include "cdds.serverFiles" (dict "root" .root "postgres" $service.postgres "kafka" $service.kafka) }}
{{- with $values.auth.publicKey }}
{{- if .configMap }}
- name: auth
  configMap: {name: {{ .configMap | quote }}, items: [{key: {{ .key | quote }}, path: token.pem}]}
{{- end }}
{{- end }}
{{- if and (include "cdds.stateful" .component) (ne .component "history") }}
- name: sources
  configMap:
{{- if $values.sources.file }}
    name: {{ include "cdds.name" (dict "root" .root "component" "sources") }}
{{- else }}
    name: {{ $values.sources.configMap.name | quote }}
    items: [{key: {{ $values.sources.configMap.key | quote }}, path: sources.toml}]
{{- end }}
{{- end }}
{{- if eq .component "exporter" }}
- name: signing
  secret:
    secretName: {{ $service.signingKey.secret | quote }}
    items: [{key: {{ $service.signingKey.key | quote }}, path: key.pem}]
    defaultMode: 0400
{{- end }}
{{- if $values.secretsAsFiles }}
{{- include "cdds.secretFiles" (dict "name" "secrets" "references" (include "cdds.references" . | fromYamlArray)) }}
{{- if eq .component "exporter" }}
{{- include "cdds.secretFiles" (dict "name" "dsns" "references" (include "cdds.dsns" .root | fromYamlArray)) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where volumes are mounted, for a list of them. */}}
{{- define "cdds.mounts" -}}
{{- range . }}
- {name: {{ .name }}, mountPath: {{ eq .name "temporary" | ternary "/tmp" (printf "/etc/cdds/%s" .name) }}{{ if ne .name "temporary" }}, readOnly: true{{ end }}}
{{- end }}
{{- end -}}
