#!/usr/bin/env bash
# Install Knative Serving and Kourier on a cluster and wait until they are ready. It can be run again at any time.
#
#   knative/install.sh kind       create the cluster `milepost` if there is none; Kourier answers at 127.0.0.1:8080
#   knative/install.sh minikube   use the running minikube; Kourier answers where `minikube tunnel` puts it
#   knative/install.sh CONTEXT    use another cluster of your kubeconfig; set its domain yourself
#
# With --with-eventing it also installs Knative Eventing, which only `delivery: broker` needs.
# Each download is compared with its SHA-256 in knative/checksums.txt and applied only when they are equal.
set -euo pipefail

SERVING=knative-v1.23.0
KOURIER=knative-v1.23.0
EVENTING=knative-v1.22.2
KUBERNETES=34  # Serving 1.23 needs Kubernetes 1.34
WITHIN=10m

DOMAIN=127.0.0.1.sslip.io
GITHUB=https://github.com

here=$(cd "$(dirname "$0")" && pwd)
usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }

where=
eventing=
for argument; do
    case $argument in
        --with-eventing) eventing=yes ;;
        -*) usage ;;
        *) [ -z "$where" ] || usage; where=$argument ;;
    esac
done
case $where in
    "") usage ;;
    kind) context=kind-milepost ;;
    *) context=$where ;;
esac

for tool in kubectl curl $([ "$where" = kind ] && echo kind); do
    command -v "$tool" >/dev/null || { echo "install.sh: $tool is not on the PATH" >&2; exit 1; }
done
if command -v sha256sum >/dev/null; then sha256() { sha256sum "$1"; }; else sha256() { shasum -a 256 "$1"; }; fi

downloads=$(mktemp -d)
trap 'rm -rf "$downloads"' EXIT

kube() { kubectl --context "$context" "$@"; }

# Right after it was started or replaced, a webhook may refuse connections.
kube_retry() {
    for try in 1 2 3 4; do
        kube "$@" && return
        [ "$try" = 4 ] || sleep $((try * 5))
    done
    echo "install.sh: kubectl $* failed" >&2
    return 1
}

# Download a file of a release, compare its digest, apply it: apply REPOSITORY RELEASE FILE
apply() {
    local url=$GITHUB/$1/releases/download/$2/$3 file=$downloads/$3 expected found
    expected=$(awk -v name="$1/$2/$3" '$2 == name { print $1 }' "$here/checksums.txt")
    if [ -z "$expected" ]; then
        echo "install.sh: checksums.txt has no digest of $1/$2/$3; add it after you have checked the file" >&2
        return 1
    fi
    curl --fail --silent --show-error --location --retry 3 --output "$file" "$url"
    found=$(sha256 "$file" | cut -d ' ' -f 1)
    if [ "$found" != "$expected" ]; then
        echo "install.sh: $url has the SHA-256 $found, not $expected; it is not applied" >&2
        return 1
    fi
    echo "applying $url"
    kube_retry apply -f "$file" >/dev/null
}

established() {
    kube wait crd -l app.kubernetes.io/name="$1" --for=condition=Established --timeout=2m >/dev/null
}

ready() {
    kube -n "$1" wait deployment --all --for=condition=Available --timeout="$WITHIN"
}

patch() {
    kube_retry -n "$1" patch "$2" --type "$3" --patch "$4"
}

if [ "$where" = kind ] && ! kind get clusters 2>/dev/null | grep -qx milepost; then
    kind create cluster --config "$here/kind.yaml" --wait 5m
fi

minor=$(kube get --raw /version | sed -n 's/.*"minor": *"\([0-9]*\).*/\1/p')
if [ "${minor:-0}" -lt "$KUBERNETES" ]; then
    echo "install.sh: Knative needs Kubernetes 1.$KUBERNETES or newer; $context has 1.${minor:-?}" >&2
    exit 1
fi

apply knative/serving "$SERVING" serving-crds.yaml
established knative-serving
apply knative/serving "$SERVING" serving-core.yaml
apply knative-extensions/net-kourier "$KOURIER" kourier.yaml
# The webhook of Serving checks the patches below. Without the class, Knative Services wait for an ingress of Istio.
kube -n knative-serving wait deployment/webhook --for=condition=Available --timeout="$WITHIN"
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
ready knative-serving
ready kourier-system

if [ -n "$eventing" ]; then
    apply knative/eventing "$EVENTING" eventing-crds.yaml
    established knative-eventing
    for file in eventing-core.yaml in-memory-channel.yaml mt-channel-broker.yaml; do
        apply knative/eventing "$EVENTING" "$file"
    done
    ready knative-eventing
fi

echo "ready: Serving $SERVING, Kourier $KOURIER${eventing:+, Eventing $EVENTING} on $context"
