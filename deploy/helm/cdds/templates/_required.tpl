{{/* What no schema can say: values that need each other. Each is refused by its name, with what to do. */}}
{{- define "cdds.required" -}}
{{- with .Values -}}
{{- if not .kafka.bootstrap -}}{{- fail "kafka.bootstrap is missing: set it to host:port of your brokers" -}}{{- end -}}
{{- if not .auth.issuer -}}{{- fail "auth.issuer is missing: set it to the issuer of your identity provider" -}}{{- end -}}
{{- if eq (empty .auth.jwksUrl) (empty .auth.publicKey.configMap) -}}
{{- fail "auth: set exactly one of auth.jwksUrl and auth.publicKey.configMap" -}}
{{- end -}}
{{- if eq (empty .sources.file) (empty .sources.configMap.name) -}}
{{- fail "sources: set exactly one of sources.file and sources.configMap.name" -}}
{{- end -}}
{{- if not .objects.location -}}{{- fail "objects.location is missing: set it to a URL such as s3://bucket/prefix" -}}{{- end -}}
{{- range $name, $ca := dict "kafka.ca" .kafka.ca "postgres.ca" .postgres.ca -}}
{{- if and $ca.secret $ca.configMap -}}{{- fail (printf "%s: set one of secret and configMap, not both" $name) -}}{{- end -}}
{{- end -}}
{{- if not .services.console.publicUrl -}}
{{- fail "services.console.publicUrl is missing: set it to the address that browsers use" -}}
{{- end -}}
{{- if and (eq .traces.mode "otlp") (not .traces.endpoint) -}}
{{- fail "traces.endpoint is missing: set it to the address of your collector, or traces.mode to off" -}}
{{- end -}}
{{- if .autoscaling.enabled -}}
{{- if and (eq .autoscaling.queue.from "prometheus") (not .autoscaling.queue.prometheus.serverAddress) -}}
{{- fail "autoscaling.queue.prometheus.serverAddress is missing: set it, or autoscaling.queue.from to postgresql" -}}
{{- end -}}
{{- range $name, $service := .services -}}
{{- if and $service.autoscaling (gt (int ($service.autoscaling).min) (int ($service.autoscaling).max)) -}}
{{- fail (printf "services.%s.autoscaling: min is greater than max" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .httpRoute.enabled (not .httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs is missing: name the gateway" -}}
{{- end -}}
{{- end -}}
{{- end -}}
