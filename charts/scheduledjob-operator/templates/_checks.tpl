{{- /* What a schema can't say: lists that have to agree with each other. Each message tells what to write instead. */ -}}
{{- define "sjob.checks" -}}
{{- $watched := .Values.namespaces -}}
{{- if $watched -}}
{{- range $key, $namespaces := dict "settings.inlineShellNamespaces" .Values.settings.inlineShellNamespaces "rbac.secrets" .Values.rbac.secrets "rbac.configMaps" .Values.rbac.configMaps -}}
{{- range $namespace := $namespaces -}}
{{- if not (or (eq $namespace "*") (has $namespace $watched)) -}}
{{- fail (printf "\n\n%s: %q is not among the namespaces that are watched (%s): add it to namespaces too, or leave it out here\n" $key $namespace (join ", " $watched)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
