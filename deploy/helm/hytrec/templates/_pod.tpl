{{- define "hytrec.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "hytrec.selector" -}}
app.kubernetes.io/name: hytrec
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "hytrec.labels" -}}
{{ include "hytrec.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "hytrec.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "hytrec.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "hytrec.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "hytrec.copy" -}}
{{- if .Values.repository.image -}}
initContainers:
  - name: repository
    image: {{ .Values.repository.image }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command: [cp, -r, "{{ .Values.repository.path }}/.", /target/]
    {{- include "hytrec.containerSecurity" . | nindent 4 }}
    resources:
      requests: {cpu: 100m, memory: 64Mi}
      limits: {memory: 256Mi}
    volumeMounts:
      - {name: repository, mountPath: /target}
{{- end }}
{{- end }}

{{- define "hytrec.env" -}}
- {name: HOME, value: /tmp}
{{- if .Values.state.passwordSecret }}
- name: HYTREC_STATE_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .Values.state.passwordSecret }}
      key: {{ .Values.state.passwordKey }}
{{- end }}
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "hytrec.mounts" -}}
- name: repository
  mountPath: /repository
  readOnly: true
  {{- if .Values.repository.existingClaim }}
  {{- with .Values.repository.subPath }}
  subPath: {{ . }}
  {{- end }}
  {{- end }}
- {name: tmp, mountPath: /tmp}
{{- if .Values.state.tlsSecret }}
- {name: redis-tls, mountPath: /redis-tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "hytrec.volumes" -}}
- name: repository
  {{- if .Values.repository.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.repository.existingClaim }}, readOnly: true}
  {{- else }}
  emptyDir: {}
  {{- end }}
- name: tmp
  emptyDir: {}
{{- with .Values.state.tlsSecret }}
- name: redis-tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{- define "hytrec.probe" -}}
{{- if .Values.insecure -}}
grpc: {port: 8001}
{{- else -}}
exec:
  command:
    - hytrec-client
    - ready
    - --url
    - {{ .Values.tls.serverName }}:8001
    - --tls-ca
    - /certs/ca.crt
    {{- if .Values.tls.clientCa }}
    - --tls-cert
    - /certs/tls.crt
    - --tls-key
    - /certs/tls.key
    {{- end }}
    - --token-file
    - /token/{{ .Values.token.key }}
{{- end }}
{{- end }}

{{- define "hytrec.pod" -}}
metadata:
  labels:
    {{- include "hytrec.selector" . | nindent 4 }}
    app.kubernetes.io/component: server
  annotations:
    {{- toYaml (merge dict .Values.podAnnotations (dict "prometheus.io/scrape" "true" "prometheus.io/port" "8002")) | nindent 4 }}
spec:
  {{- include "hytrec.podSecurity" . | nindent 2 }}
  {{- with .Values.affinity }}
  affinity: {{ toJson . }}
  {{- else }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "hytrec.selector" . | nindent 10 }}
          app.kubernetes.io/component: server
  {{- end }}
  {{- if and (not .Values.insecure) (ne .Values.tls.serverName "localhost") }}
  hostAliases:
    - {ip: 127.0.0.1, hostnames: [{{ .Values.tls.serverName }}]}
  {{- end }}
  terminationGracePeriodSeconds: {{ add .Values.stopTimeout 15 }}
  {{- with include "hytrec.copy" . }}{{ . | nindent 2 }}{{ end }}
  containers:
    - name: server
      image: {{ include "hytrec.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      {{- include "hytrec.containerSecurity" . | nindent 6 }}
      {{- if eq .Values.server "cpu" }}
      command: [hytrec-export, serve]
      args:
        - /repository
        - --state={{ .Values.state.url }}
        - --host=0.0.0.0
        - --metrics-host=0.0.0.0
        - --stop-timeout={{ .Values.stopTimeout }}
        {{- if .Values.insecure }}
        - --insecure
        {{- else }}
        - --tls-cert=/certs/tls.crt
        - --tls-key=/certs/tls.key
        - --token-file=/token/{{ .Values.token.key }}
        {{- if .Values.tls.clientCa }}
        - --tls-client-ca=/certs/ca.crt
        {{- end }}
        {{- end }}
        {{- range $name, $value := .Values.options }}
        {{- if kindIs "bool" $value }}
        {{- if $value }}
        - --{{ $name }}
        {{- end }}
        {{- else if kindIs "slice" $value }}
        {{- range $value }}
        - {{ printf "--%s=%s" $name . | quote }}
        {{- end }}
        {{- else }}
        - --{{ $name }}={{ if kindIs "float64" $value }}{{ if eq (floor $value) $value }}{{ int64 $value }}{{ else }}{{ $value }}{{ end }}{{ else }}{{ $value }}{{ end }}
        {{- end }}
        {{- end }}
      {{- else }}
      command: [python3, -m, hytrec_export.server.container, /repository]
      args: [--exit-timeout-secs={{ .Values.stopTimeout }}]
      {{- end }}
      env:
        {{- include "hytrec.env" . | nindent 8 }}
        {{- if eq .Values.server "gpu" }}
        - {name: HYTREC_STATE_URL, value: {{ .Values.state.url | quote }}}
        {{- if .Values.insecure }}
        - {name: HYTREC_SERVER_INSECURE, value: "1"}
        {{- else }}
        - {name: HYTREC_SERVER_TLS_CERT, value: /certs/tls.crt}
        - {name: HYTREC_SERVER_TLS_KEY, value: /certs/tls.key}
        - {name: HYTREC_SERVER_TOKEN_FILE, value: /token/{{ .Values.token.key }}}
        {{- if .Values.tls.clientCa }}
        - {name: HYTREC_SERVER_TLS_CLIENT_CA, value: /certs/ca.crt}
        {{- end }}
        {{- end }}
        {{- end }}
      ports:
        - {name: grpc, containerPort: 8001}
        - {name: metrics, containerPort: 8002}
      # Loading, warm-up and, of a large repository, checksums.
      startupProbe:
        {{- include "hytrec.probe" . | nindent 8 }}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 60
      readinessProbe:
        {{- include "hytrec.probe" . | nindent 8 }}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 2
      # `serve` starts a server that crashed again by itself; a pod is started anew where that does not help.
      livenessProbe:
        {{- if eq .Values.server "cpu" }}
        {{- include "hytrec.probe" . | nindent 8 }}
        {{- else }}
        # A request: Triton says that it is ready after a python model of it has died.
        exec:
          command: [python3, -m, hytrec_export.serving.health, "unix:/tmp/hytrec-container-10001/http.sock"]
        {{- end }}
        periodSeconds: 30
        timeoutSeconds: 10
        failureThreshold: 5
      lifecycle:
        preStop:
          exec: {command: [sleep, "5"]}
      resources: {{ toJson .Values.resources }}
      volumeMounts:
        {{- include "hytrec.mounts" . | nindent 8 }}
        - {name: shm, mountPath: /dev/shm}
        {{- if not .Values.insecure }}
        - {name: certs, mountPath: /certs, readOnly: true}
        - {name: token, mountPath: /token, readOnly: true}
        {{- end }}
  volumes:
    {{- include "hytrec.volumes" . | nindent 4 }}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ .Values.sharedMemory }}}
    {{- if not .Values.insecure }}
    - name: certs
      secret: {secretName: {{ .Values.tls.secret }}, defaultMode: 0440}
    - name: token
      secret: {secretName: {{ .Values.token.secret }}, defaultMode: 0440}
    {{- end }}
{{- end }}
