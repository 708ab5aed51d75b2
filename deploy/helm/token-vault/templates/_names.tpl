{{- define "token-vault.labels" -}}
app.kubernetes.io/name: token-vault
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "token-vault.selector" -}}
app.kubernetes.io/name: token-vault
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "token-vault.host" -}}
{{ trimPrefix "https://" .Values.publicUrl }}
{{- end }}
