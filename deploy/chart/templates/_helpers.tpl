{{- /* The distribution's profile, over kubeadm's, and the values over that. */ -}}
{{- define "intercept.profile" -}}
{{- $all := .Files.Get "files/profiles.yaml" | fromYaml -}}
{{- $p := mergeOverwrite (deepCopy $all.kubeadm) (get $all .Values.profile) -}}
{{- with .Values.agent.cniConfDir }}{{ $_ := set $p "confDir" . }}{{ end -}}
{{- with .Values.agent.cniBinDir }}{{ $_ := set $p "binDir" . }}{{ end -}}
{{- with .Values.agent.seLinuxType }}{{ $_ := set $p "seLinuxType" . }}{{ end -}}
{{- with .Values.agent.affinity }}{{ $_ := set $p "affinity" . }}{{ end -}}
{{- toYaml $p -}}
{{- end -}}

{{- /* An image of a part: its own fields, else those of image. */ -}}
{{- define "intercept.image" -}}
{{- $i := mergeOverwrite (deepCopy (index . 0).Values.image) (index . 1) -}}
{{- $i.repository }}{{ with $i.tag }}:{{ . }}{{ end }}{{ with $i.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{- define "intercept.pullPolicy" -}}
{{- $i := mergeOverwrite (deepCopy (index . 0).Values.image) (index . 1) -}}
{{- with $i.pullPolicy }}
          imagePullPolicy: {{ . }}
{{- end -}}
{{- end -}}

{{- define "intercept.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
      imagePullSecrets:
{{- range . }}
        - name: {{ . }}
{{- end }}
{{- end -}}
{{- end -}}

{{- /* Labels of every object. */ -}}
{{- define "intercept.labels" -}}
{{- with .Values.labels }}
  labels:
    {{- toYaml . | nindent 4 }}
{{- end -}}
{{- end -}}

{{- /* Namespaces whose pods never get a sidecar. */ -}}
{{- define "intercept.notInjected" -}}
{{- $names := list "kube-system" "kube-public" "kube-node-lease" .Values.agent.namespace .Values.injector.namespace -}}
{{- join ", " (concat $names .Values.injector.excludeNamespaces | uniq) -}}
{{- end -}}

{{- /* A map of words on one line. */ -}}
{{- define "intercept.flow" -}}
{ {{- range $i, $k := keys . | sortAlpha }}{{ if $i }}, {{ end }}{{ $k }}: {{ get $ $k }}{{ end -}} }
{{- end -}}
