{{- /* Checks that a schema can't express: lists that must agree. Each message says what to write instead. */ -}}
{{- define "sjob.checks" -}}
{{- $watched := .Values.namespaces -}}
{{- if $watched -}}
{{- range $key, $namespaces := dict "settings.inlineShellNamespaces" .Values.settings.inlineShellNamespaces "rbac.secrets" .Values.rbac.secrets "rbac.configMaps" .Values.rbac.configMaps -}}
{{- range $namespace := $namespaces -}}
{{- if not (or (eq $namespace "*") (has $namespace $watched)) -}}
{{- fail (printf "\n\n%s: the operator does not watch %q (it watches %s): add it to namespaces, or leave it out here\n" $key $namespace (join ", " $watched)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
