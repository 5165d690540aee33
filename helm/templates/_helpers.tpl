{{- /* Names, labels and other parts that several components share. */ -}}

{{- define "milepost.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Labels that never change, of (dict "root" $ "component" "bridge"). */ -}}
{{- define "milepost.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "milepost.labels" -}}
{{ include "milepost.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- /* Name, namespace and labels, of the same. */ -}}
{{- define "milepost.metadata" -}}
name: {{ include "milepost.fullname" .root }}-{{ .component }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "milepost.labels" . | nindent 2 }}
{{- end -}}

{{- /* Reference of an image, of (dict "root" $ "component" "bridge" "image" ""). */ -}}
{{- define "milepost.image" -}}
{{- with .root.Values.image -}}
{{- $.image | default (printf "%s/milepost-%s:%s" .registry $.component (.tag | default $.root.Chart.AppVersion)) -}}
{{- end -}}
{{- end -}}

{{- define "milepost.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* Pod security "restricted", of (dict "uid" 65532 "readOnly" true). */ -}}
{{- define "milepost.security" -}}
runAsNonRoot: true
runAsUser: {{ .uid }}
runAsGroup: {{ .uid }}
readOnlyRootFilesystem: {{ .readOnly }}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- /* The command of a container that restarts its module when a source file changes, of (dict "root" $ "module" "gateway"). */ -}}
{{- define "milepost.reload" -}}
command:
  - python3
  - -c
  - |
    {{- .root.Files.Get "files/reload.py" | nindent 4 }}
  - {{ .module }}
{{- end -}}

{{- /*
The `replicas` of a Deployment, of (dict "root" $ "component" "bridge"). Helm 4 applies server-side, and the API server
refuses an upgrade that changes a field of another manager. So where `kubectl scale` or an autoscaler has set the number,
the upgrade repeats it. `replicas: null` leaves the field out.
*/ -}}
{{- define "milepost.replicas" -}}
{{- $replicas := (get .root.Values .component).replicas -}}
{{- if not (kindIs "invalid" $replicas) -}}
replicas: {{ include "milepost.scaledTo" . | default (int $replicas | toString) }}
{{- end -}}
{{- end -}}

{{- /* The live number of replicas if another manager than Helm owns the field, else nothing, of the same. */ -}}
{{- define "milepost.scaledTo" -}}
{{- $live := lookup "apps/v1" "Deployment" .root.Release.Namespace (printf "%s-%s" (include "milepost.fullname" .root) .component) -}}
{{- $scaled := false -}}
{{- range dig "metadata" "managedFields" list $live -}}
  {{- $spec := dig "f:spec" dict (.fieldsV1 | default dict) -}}
  {{- /* The manager that installed the Deployment owns its selector too, under any name of its binary. */ -}}
  {{- if and (hasKey $spec "f:replicas") (not (hasKey $spec "f:selector")) }}{{ $scaled = true }}{{ end -}}
{{- end -}}
{{- if $scaled }}{{ int $live.spec.replicas }}{{ end -}}
{{- end -}}

{{- define "milepost.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "milepost.selector" . | nindent 8 }}
{{- end -}}

{{- /* Variables of both bridge and gateway. */ -}}
{{- define "milepost.journalEnv" -}}
{{ include "milepost.redisEnv" . }}
- name: BACKLOG_LIMIT
  value: {{ int64 .Values.journal.backlogLimit | quote }}
- name: REPLICAS
  value: {{ int64 .Values.journal.replicas | quote }}
- name: DEDUP
  value: {{ .Values.journal.dedup }}
- name: DEADLINE
  value: {{ .Values.journal.deadline }}
{{- end -}}

{{- /* A row of `stages` with the defaults of `functions`, as JSON, of (dict "root" $ "entry" $entry). */ -}}
{{- define "milepost.stage" -}}
{{- mergeOverwrite (deepCopy .root.Values.functions) (deepCopy .entry) | toJson -}}
{{- end -}}

{{- /* The delivery of a stage's Trigger in broker mode, as JSON, of the same. */ -}}
{{- define "milepost.triggerDelivery" -}}
{{- omit (mergeOverwrite (deepCopy .root.Values.broker.delivery) (deepCopy (.entry.delivery | default dict))) "crashRetry" "deadline" "delay" "batch" | toJson -}}
{{- end -}}

{{- /* The channels that a row emits, as a JSON list: a row has one as text, several as a list, or none. */ -}}
{{- define "milepost.emits" -}}
{{- if kindIs "slice" .emits }}{{ .emits | toJson }}{{ else if .emits }}{{ list .emits | toJson }}{{ else }}[]{{ end -}}
{{- end -}}

{{- /*
When a function is woken, as JSON for the bridge, of (dict "root" $ "entry" $entry); durations in seconds. YAML reads a
bare `off` as false. A function that never scales to zero needs no wake-up.
*/ -}}
{{- define "milepost.wake" -}}
{{- $stage := include "milepost.stage" . | fromJson -}}
{{- $off := or (eq (toString $stage.wake) "false") (gt (int $stage.minScale) 0) -}}
{{- $after := include "milepost.shortSeconds" ($stage.wakeAfter | default "30s") | float64 -}}
{{- $delay := include "milepost.shortSeconds" ($stage.wakeDelay | default "0s") | float64 -}}
{{- dict "wake" (ternary "off" ($stage.wake | default "event") $off) "wakeAfter" $after "wakeDelay" $delay | toJson -}}
{{- end -}}

{{- /* The stages with their channels, as a JSON list. */ -}}
{{- define "milepost.stageList" -}}
{{- $stages := list -}}
{{- range $name, $entry := .Values.stages -}}
  {{- $stage := merge (dict "name" $name) (pick $entry "consumes" "emits" "split" "order") -}}
  {{- if $entry.url }}{{ $_ := set $stage "external" true -}}
  {{- else -}}
    {{- $wake := include "milepost.wake" (dict "root" $ "entry" $entry) | fromJson -}}
    {{- if eq $wake.wake "page" }}{{ $stage = merge $stage (pick $wake "wake" "wakeAfter") }}{{ end -}}
  {{- end -}}
  {{- $stages = append $stages $stage -}}
{{- end -}}
{{- $stages | toJson -}}
{{- end -}}

{{- /* Names of the stages that are functions of ours, as a JSON list. */ -}}
{{- define "milepost.functions" -}}
{{- $names := list -}}
{{- range $name, $entry := .Values.stages }}{{ if not $entry.url }}{{ $names = append $names $name }}{{ end }}{{ end -}}
{{- $names | toJson -}}
{{- end -}}

{{- /* Whether a stage has `mongo: true`. */ -}}
{{- define "milepost.wantsMongo" -}}
{{- range .Values.stages }}{{ if .mongo }}true{{ end }}{{ end -}}
{{- end -}}

{{- /* The bridge's variable for a header's value, of (dict "stage" $name "header" $header). */ -}}
{{- define "milepost.headerVariable" -}}
{{- regexReplaceAll "[^A-Z0-9]" (printf "HEADER_%s_%s" .stage .header | upper) "_" -}}
{{- end -}}

{{- /* Seconds of a duration such as PT1M30.5S. */ -}}
{{- define "milepost.seconds" -}}
{{- $hours := regexFind "[0-9]+H" . | trimSuffix "H" | default "0" | float64 -}}
{{- $minutes := regexFind "[0-9]+M" . | trimSuffix "M" | default "0" | float64 -}}
{{- $seconds := regexFind "[0-9.]+S" . | trimSuffix "S" | default "0" | float64 -}}
{{- addf (mulf $hours 3600) (mulf $minutes 60) $seconds -}}
{{- end -}}

{{- /* Seconds of a duration such as 1m30.5s. */ -}}
{{- define "milepost.shortSeconds" -}}
{{- upper . | printf "PT%s" | include "milepost.seconds" -}}
{{- end -}}

{{- /* Seconds that the bridge or the Trigger waits for a stage, of (dict "root" $ "entry" $entry). */ -}}
{{- define "milepost.timeout" -}}
{{- $delivery := .entry.delivery | default dict -}}
{{- if eq .root.Values.delivery "broker" -}}
{{- $delivery = include "milepost.triggerDelivery" . | fromJson -}}
{{- end -}}
{{- include "milepost.seconds" ($delivery.timeout | default "PT60S") -}}
{{- end -}}
