{{- /* URLs of Redis and MongoDB, and the Secrets that they come from. */ -}}

{{- define "milepost.redisInside" -}}
{{- if and .Values.redis.enabled (not .Values.redis.url) }}true{{ end -}}
{{- end -}}

{{- define "milepost.mongoInside" -}}
{{- if and .Values.mongo.enabled (not .Values.mongo.url) (include "milepost.wantsMongo" .) }}true{{ end -}}
{{- end -}}

{{- /* The chart's own Secret. */ -}}
{{- define "milepost.ownSecret" -}}
{{ include "milepost.fullname" . }}-credentials
{{- end -}}

{{- define "milepost.passwords" -}}
{{ .Values.existingSecret | default (include "milepost.ownSecret" .) }}
{{- end -}}

{{- define "milepost.redisEnv" -}}
{{- if .Values.redis.url -}}
- name: REDIS_URL
  valueFrom:
    secretKeyRef: {name: {{ include "milepost.ownSecret" . }}, key: redis-url}
{{- else if .Values.redis.enabled -}}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "milepost.passwords" . }}, key: redis-password}
- name: REDIS_URL
  value: redis://default:$(REDIS_PASSWORD)@{{ include "milepost.fullname" . }}-redis:{{ .Values.redis.port }}
{{- else -}}
- name: REDIS_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.existingSecret }}, key: redis-url}
{{- end -}}
{{- end -}}

{{- define "milepost.mongoEnv" -}}
{{- if .Values.mongo.url -}}
- name: MONGO_URL
  valueFrom:
    secretKeyRef: {name: {{ include "milepost.ownSecret" . }}, key: mongo-url}
{{- else if .Values.mongo.enabled -}}
- name: MONGO_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "milepost.passwords" . }}, key: mongo-password}
- name: MONGO_URL
  value: mongodb://milepost:$(MONGO_PASSWORD)@{{ include "milepost.fullname" . }}-mongo:{{ .Values.mongo.port }}/{{ .Values.mongo.database }}?authSource=admin
{{- else -}}
- name: MONGO_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.existingSecret }}, key: mongo-url}
{{- end -}}
{{- end -}}

{{- /* An annotation that changes with the URLs in the values, so that pods that read them are replaced. */ -}}
{{- define "milepost.credentialsSum" -}}
{{- with printf "%s%s" .Values.redis.url .Values.mongo.url -}}
milepost/credentials: {{ sha256sum . | trunc 16 | quote }}
{{- end -}}
{{- end -}}
