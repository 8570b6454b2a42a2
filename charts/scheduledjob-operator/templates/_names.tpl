{{- /* Names, labels, and what other templates derive from the values. */ -}}

{{- define "sjob.name" -}}
{{- default "scheduledjob" .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "sjob.fullname" -}}
{{- $name := include "sjob.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 40 | trimSuffix "-") $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Names of cluster-scoped objects include the release's namespace: two namespaces may have releases of the same name. */ -}}
{{- define "sjob.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "sjob.fullname" .) -}}
{{- end -}}

{{- define "sjob.selector" -}}
app.kubernetes.io/name: {{ include "sjob.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "sjob.labels" -}}
{{- $labels := dict
  "app.kubernetes.io/name" (include "sjob.name" .)
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/version" (.Chart.AppVersion | replace "+" "_" | trunc 63)
  "app.kubernetes.io/part-of" "scheduledjob"
  "app.kubernetes.io/managed-by" .Release.Service
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63)
-}}
{{- toYaml (merge $labels .Values.commonLabels) -}}
{{- end -}}

{{- define "sjob.serviceAccount" -}}
{{- default (ternary (include "sjob.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "sjob.lease" -}}
{{- default (include "sjob.fullname" .) .Values.memoryLease -}}
{{- end -}}

{{- define "sjob.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The uid of kube-system identifies the cluster. Without it, two clusters that share a store would count as one. */ -}}
{{- define "sjob.instance" -}}
{{- if .Values.instance -}}
{{- .Values.instance -}}
{{- else -}}
{{- $local := printf "%s/%s" .Release.Namespace .Release.Name -}}
{{- $kubeSystem := lookup "v1" "Namespace" "" "kube-system" -}}
{{- if $kubeSystem -}}
{{- printf "%s/%s" $kubeSystem.metadata.uid $local -}}
{{- else if eq .Values.store.type "memory" -}}
{{- $local -}}
{{- else -}}
{{- fail (printf "\n\ninstance: the uid of the cluster can't be read here, and operators of other clusters with the same store would count as this one: set a name that no other installation has, such as\n  --set instance=$(kubectl get namespace kube-system -o jsonpath={.metadata.uid})/%s\n" $local) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* A duration such as 1h30m in seconds. */ -}}
{{- define "sjob.seconds" -}}
{{- $sum := 0 -}}
{{- range $part := regexFindAll "[0-9]+[dhms]" . -1 -}}
{{- $unit := get (dict "d" 86400 "h" 3600 "m" 60 "s" 1) (trimAll "0123456789" $part) -}}
{{- $sum = add $sum (mul (regexFind "[0-9]+" $part | atoi) $unit) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{- define "sjob.graceSeconds" -}}
{{- $least := add 8 (include "sjob.seconds" (default "20s" .Values.settings.grace) | atoi) -}}
{{- $given := .Values.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $given -}}
{{- /* A store in memory is lost with the Pod, so the operator first updates status, which takes up to 60 s. */ -}}
{{- if eq .Values.store.type "memory" -}}{{- add 60 $least -}}{{- else -}}{{- $least -}}{{- end -}}
{{- else if lt (int64 $given) $least -}}
{{- fail (printf "\n\nterminationGracePeriodSeconds: %d is less than settings.grace (%s) plus 8 seconds: jobs would be killed before they could be handed to another replica; write %d or more, or leave it out\n" (int64 $given) (default "20s" .Values.settings.grace) $least) -}}
{{- else -}}
{{- int64 $given -}}
{{- end -}}
{{- end -}}

{{- /* The environment variables of the store: `SJOB_STORE` and its credentials. */ -}}
{{- define "sjob.storeEnv" -}}
{{- with .Values.store -}}
{{- if eq .type "secret" }}
- name: SJOB_STORE
  valueFrom:
    secretKeyRef: {name: {{ .secret.name }}, key: {{ .secret.key }}}
{{- else if eq .type "postgresql" }}
{{- $pairs := list }}
{{- range $key, $value := .postgresql.parameters }}
{{- $pairs = append $pairs (printf "%s=%s" $key (toString $value | urlquery | replace "+" "%20")) }}
{{- end }}
{{- $query := ternary (printf "?%s" (join "&" $pairs)) "" (gt (len $pairs) 0) }}
- name: SJOB_STORE
  value: {{ printf "postgresql://%s@%s:%d/%s%s" (urlquery .postgresql.user | replace "+" "%20") .postgresql.host (int .postgresql.port) (urlquery .postgresql.database | replace "+" "%20") $query | quote }}
{{- with .postgresql.passwordSecret }}
{{- if .name }}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- else if eq .type "firestore" }}
- name: SJOB_STORE
  value: {{ printf "firestore://%s/%s" .firestore.project .firestore.collection | quote }}
{{- if .firestore.credentialsSecret.name }}
- name: GOOGLE_APPLICATION_CREDENTIALS
  value: {{ printf "/etc/scheduledjob/firestore/%s" .firestore.credentialsSecret.key }}
{{- end }}
{{- else }}
- name: SJOB_STORE
  value: "memory:"
{{- end }}
{{- end }}
{{- end -}}

{{- define "sjob.storeMounts" -}}
{{- if and (eq .Values.store.type "firestore") .Values.store.firestore.credentialsSecret.name }}
- name: firestore-credentials
  mountPath: /etc/scheduledjob/firestore
  readOnly: true
{{- end }}
{{- end -}}

{{- define "sjob.storeVolumes" -}}
{{- with .Values.store.firestore.credentialsSecret }}
{{- if and (eq $.Values.store.type "firestore") .name }}
- name: firestore-credentials
  secret:
    secretName: {{ .name }}
    items: [{key: {{ .key }}, path: {{ .key }}}]
{{- end }}
{{- end }}
{{- end -}}

{{- /* The environment variables of the settings. Everybody on the node could read flags. */ -}}
{{- define "sjob.settingsEnv" -}}
{{- $settings := dict
  "instance" (include "sjob.instance" .)
  "memoryLease" (include "sjob.lease" .)
  "namespaces" .Values.namespaces
  "listen" (printf ":%d" (int .Values.metrics.port))
-}}
{{- $settings = merge $settings (omit .Values.settings "podImage") (dict "podImage" (default (include "sjob.image" .) .Values.settings.podImage)) -}}
{{- range $key, $value := $settings }}
{{- if not (or (kindIs "invalid" $value) (and (kindIs "slice" $value) (empty $value))) }}
- name: SJOB_{{ snakecase $key | upper }}
{{- if kindIs "slice" $value }}
  value: {{ join "," $value | quote }}
{{- else if kindIs "float64" $value }}
  value: {{ ternary (int64 $value) $value (eq (float64 (int64 $value)) (float64 $value)) | toString | quote }}
{{- else }}
  value: {{ toString $value | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Not empty if this upgrade moves the store out of memory. New Pods then wait for the Lease of the old Pod, and a rolling
update would wait for the new Pods to become ready before it stops the old one. */ -}}
{{- define "sjob.leavesMemory" -}}
{{- $now := lookup "apps/v1" "Deployment" .Release.Namespace (include "sjob.fullname" .) -}}
{{- range (dig "spec" "template" "spec" "containers" list $now) -}}
{{- range .env -}}
{{- if and (eq .name "SJOB_STORE") (eq (default "" .value) "memory:") -}}
yes
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sjob.pod" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "sjob.scratchVolume" -}}
- name: scratch
  emptyDir:
    sizeLimit: {{ .Values.scratch.sizeLimit }}
    {{- with .Values.scratch.medium }}
    medium: {{ . }}
    {{- end }}
{{- end -}}
