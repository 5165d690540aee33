{{- /* Checks that a schema cannot express. Each stops the rendering with a message that says what to do. */ -}}

{{- define "milepost.check" -}}
{{- $emitters := dict -}}
{{- $variables := dict -}}
{{- range $name, $entry := .Values.stages -}}
  {{- if has $name (list "milepost" "redis" "mongo" "bridge" "gateway" "broker") -}}
    {{- fail (printf "stages.%s: no stage can be called that: a component has the name" $name) -}}
  {{- end -}}
  {{- $before := regexReplaceAll "-reply(-[0-9]+)?$" $name "" -}}
  {{- if and (eq $.Values.delivery "broker") (ne $before $name) (hasKey $.Values.stages $before) -}}
    {{- fail (printf "stages.%s: the Trigger of %s's replies has that name" $name $before) -}}
  {{- end -}}
  {{- range include "milepost.emits" $entry | fromJsonArray -}}
    {{- if hasKey $emitters . -}}
      {{- fail (printf "stages: %s is emitted by %s and %s; one channel is emitted by at most one stage: answers of two to one event would have the same id there" . (get $emitters .) $name) -}}
    {{- end -}}
    {{- $_ := set $emitters . $name -}}
  {{- end -}}
  {{- range $header, $from := $entry.headersFrom -}}
    {{- $variable := include "milepost.headerVariable" (dict "stage" $name "header" $header) -}}
    {{- if hasKey $variables $variable -}}
      {{- fail (printf "stages.%s.headersFrom: %s and one of stages.%s would share the variable %s; rename the stage" $name $header (get $variables $variable) $variable) -}}
    {{- end -}}
    {{- $_ := set $variables $variable $name -}}
  {{- end -}}
  {{- include "milepost.checkUrl" (dict "root" $ "name" $name "entry" $entry) -}}
  {{- if gt (include "milepost.timeout" (dict "root" $ "entry" $entry) | float64) 570.0 -}}
    {{- fail (printf "stages.%s.delivery.timeout: at most PT570S; Knative ends requests after 600 s" $name) -}}
  {{- end -}}
  {{- if and (not $entry.url) (gt (len (printf "%s-%s" (include "milepost.fullname" $) $name)) 50) -}}
    {{- fail (printf "stages.%s: with the release's name the Service's name is over 50 characters" $name) -}}
  {{- end -}}
{{- end -}}
{{- range $server := ternary (list "redis" "mongo") (list "redis") (not (empty (include "milepost.wantsMongo" .))) -}}
  {{- $values := get $.Values $server -}}
  {{- if and (not $values.enabled) (not $values.url) (not $.Values.existingSecret) -}}
    {{- fail (printf "%s.enabled is false: say where the outside one is, by %s.url, or by the key %s-url of a Secret named in existingSecret" $server $server $server) -}}
  {{- end -}}
{{- end -}}
{{- include "milepost.checkCircles" . -}}
{{- if eq .Values.delivery "broker" -}}{{- include "milepost.checkBroker" . -}}{{- end -}}
{{- end -}}

{{- /* In a circle without a split an event would come by again with the same id. Leaves out, round by round, the stages that lead to no other or that no other leads to. */ -}}
{{- define "milepost.checkCircles" -}}
{{- $left := dict -}}
{{- range $name, $entry := .Values.stages -}}
  {{- if not $entry.split -}}
    {{- $_ := set $left $name (dict "consumes" $entry.consumes "emits" (include "milepost.emits" $entry | fromJsonArray)) -}}
  {{- end -}}
{{- end -}}
{{- range until (len $left) -}}
  {{- $consumed := dict -}}
  {{- $emitted := dict -}}
  {{- range $left -}}
    {{- $_ := set $consumed .consumes true -}}
    {{- range .emits -}}{{- $_ := set $emitted . true -}}{{- end -}}
  {{- end -}}
  {{- range $name, $stage := $left -}}
    {{- $leads := false -}}
    {{- range $stage.emits -}}{{- if hasKey $consumed . -}}{{- $leads = true -}}{{- end -}}{{- end -}}
    {{- if not (and $leads (hasKey $emitted $stage.consumes)) -}}{{- $_ := unset $left $name -}}{{- end -}}
  {{- end -}}
{{- end -}}
{{- if $left -}}
  {{- fail (printf "stages: %s are a circle: an event would come by again, perhaps for ever, and with the same id each time, as a redelivery does; split: true in one of them gives each round an id of its own" (keys $left | sortAlpha | join " and ")) -}}
{{- end -}}
{{- end -}}

{{- /* Keys that a `url` allows, and keys that a Broker cannot serve, of (dict "root" $ "name" $name "entry" $entry). */ -}}
{{- define "milepost.checkUrl" -}}
{{- $known := list "consumes" "emits" "split" "order" "delivery" "url" "headersFrom" "egress" -}}
{{- if .entry.url -}}
  {{- range keys .entry | sortAlpha -}}
    {{- if not (has . $known) -}}
      {{- fail (printf "stages.%s: %s is for a function; at a url there is none of ours" $.name .) -}}
    {{- end -}}
  {{- end -}}
{{- else if .entry.headersFrom -}}
  {{- fail (printf "stages.%s: headersFrom is for a url: a function of ours needs no secret of its sender" .name) -}}
{{- end -}}
{{- if and .entry.split (not .entry.emits) -}}
  {{- fail (printf "stages.%s: split, but it emits nothing that could be several" .name) -}}
{{- end -}}
{{- if eq .root.Values.delivery "broker" -}}
  {{- if .entry.headersFrom -}}
    {{- fail (printf "stages.%s.headersFrom: a Trigger sends no headers of yours; use direct delivery" .name) -}}
  {{- end -}}
  {{- if .entry.split -}}
    {{- fail (printf "stages.%s.split: a Broker takes one reply to an event; use direct delivery" .name) -}}
  {{- end -}}
  {{- if .entry.order -}}
    {{- fail (printf "stages.%s.order: a Broker keeps no order; use direct delivery" .name) -}}
  {{- end -}}
  {{- if (.entry.delivery | default dict).delay -}}
    {{- fail (printf "stages.%s.delivery.delay: a Broker waits for nothing; use direct delivery" .name) -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- /*
A Trigger's dispatcher tries the function and then, with the same retries, hands the answer to the Broker or the event to
the dead-letter sink. The Broker answers the bridge only after that, so the bridge must wait longer.
*/ -}}
{{- define "milepost.checkBroker" -}}
{{- $within := include "milepost.seconds" .Values.broker.timeout | float64 -}}
{{- range $name, $entry := .Values.stages -}}
  {{- $delivery := include "milepost.triggerDelivery" (dict "root" $ "entry" $entry) | fromJson -}}
  {{- $retry := int $delivery.retry -}}
  {{- $delay := include "milepost.seconds" $delivery.backoffDelay | float64 -}}
  {{- $waits := divf (mulf $retry (add $retry 1)) 2 -}}
  {{- if eq $delivery.backoffPolicy "exponential" -}}
    {{- $waits = 1.0 -}}
    {{- range until $retry -}}{{- $waits = mulf $waits 2 -}}{{- end -}}
    {{- $waits = subf $waits 1 -}}
  {{- end -}}
  {{- $tries := addf (mulf (add $retry 1) (include "milepost.seconds" $delivery.timeout | float64)) (mulf $delay $waits) -}}
  {{- $total := mulf 2 $tries -}}
  {{- if le $within $total -}}
    {{- fail (printf "broker.timeout: %s is not longer than the %v s that the Trigger of stage %s may take (twice %d deliveries of %s each and the backoff between them); raise broker.timeout, or lower retry, timeout or backoffDelay in broker.delivery or stages.%s.delivery" $.Values.broker.timeout $total $name (add $retry 1) $delivery.timeout $name) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
