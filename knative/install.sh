#!/usr/bin/env bash
# Puts Knative Serving, Eventing and Kourier on a cluster, and waits until they are ready. Run it again at will.
#
#   knative/install.sh kind       makes the cluster `milepost` if there is none; Kourier answers at 127.0.0.1:8080
#   knative/install.sh minikube   into the running minikube; Kourier answers where `minikube tunnel` puts it
#   knative/install.sh CONTEXT    into any other cluster of your kubeconfig; its domain stays yours to set
set -euo pipefail

SERVING=knative-v1.23.0
KOURIER=knative-v1.23.0
EVENTING=knative-v1.22.2
KUBERNETES=34  # 1.34, the least that Serving 1.23 runs on
WITHIN=10m

DOMAIN=127.0.0.1.sslip.io
GITHUB=https://github.com

here=$(cd "$(dirname "$0")" && pwd)
where=${1:-}
case $where in
    kind) context=kind-milepost ;;
    "" | -*) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    *) context=$where ;;
esac

for tool in kubectl $([ "$where" = kind ] && echo kind); do
    command -v "$tool" >/dev/null || { echo "install.sh: $tool is not on the PATH" >&2; exit 1; }
done

kube() { kubectl --context "$context" "$@"; }

apply() {
    echo "applying $1"
    for try in 1 2 3; do  # a webhook that was replaced a moment ago, a download that broke
        kube apply -f "$1" >/dev/null && return
        sleep $((try * 5))
    done
    echo "install.sh: $1 could not be applied" >&2
    return 1
}

ready() {
    kube -n "$1" wait deployment --all --for=condition=Available --timeout="$WITHIN"
}

patch() {
    kube -n "$1" patch "$2" --type "$3" --patch "$4"
}

if [ "$where" = kind ] && ! kind get clusters 2>/dev/null | grep -qx milepost; then
    kind create cluster --config "$here/kind.yaml" --wait 5m
fi

minor=$(kube get --raw /version | sed -n 's/.*"minor": *"\([0-9]*\).*/\1/p')
if [ "${minor:-0}" -lt "$KUBERNETES" ]; then
    echo "install.sh: Knative needs Kubernetes 1.$KUBERNETES or newer; $context has 1.${minor:-?}" >&2
    exit 1
fi

apply "$GITHUB/knative/serving/releases/download/$SERVING/serving-crds.yaml"
apply "$GITHUB/knative/eventing/releases/download/$EVENTING/eventing-crds.yaml"
kube wait crd -l app.kubernetes.io/name=knative-serving --for=condition=Established --timeout=2m >/dev/null
kube wait crd -l app.kubernetes.io/name=knative-eventing --for=condition=Established --timeout=2m >/dev/null

apply "$GITHUB/knative/serving/releases/download/$SERVING/serving-core.yaml"
apply "$GITHUB/knative-extensions/net-kourier/releases/download/$KOURIER/kourier.yaml"
apply "$GITHUB/knative/eventing/releases/download/$EVENTING/eventing-core.yaml"
apply "$GITHUB/knative/eventing/releases/download/$EVENTING/in-memory-channel.yaml"
apply "$GITHUB/knative/eventing/releases/download/$EVENTING/mt-channel-broker.yaml"

for namespace in knative-serving kourier-system knative-eventing; do
    ready "$namespace"
done

patch knative-serving configmap/config-network merge \
    '{"data": {"ingress-class": "kourier.ingress.networking.knative.dev"}}'
case $where in
    kind | minikube)
        patch knative-serving configmap/config-domain merge "{\"data\": {\"$DOMAIN\": \"\"}}"
        ;;
esac
if [ "$where" = kind ]; then
    patch kourier-system service/kourier strategic \
        '{"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 31080}]}}'
fi

echo "ready: Serving $SERVING, Eventing $EVENTING, Kourier $KOURIER on $context"
