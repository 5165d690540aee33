#!/bin/sh
# Build one image for Skaffold, which sets IMAGE, PUSH_IMAGE and BUILD_CONTEXT: knative/build.sh COMPONENT
#
# Skaffold's own Docker builder reads the COPY lines of every target. It would fail at targets whose build arguments are
# missing, and would build every image for every change.
set -eu

component=$1
case $component in
    bridge | gateway) set -- --target "$component" ;;
    *) set -- --target function --build-arg STAGE="$component" ;;
esac
if [ "$PUSH_IMAGE" = false ]; then
    set -- "$@" --build-arg OWNER=65532  # `skaffold dev` overwrites the code of running pods, as their user
fi

export DOCKER_BUILDKIT=1  # without BuildKit, docker would build the other targets too
docker build "$@" -t "$IMAGE" "$BUILD_CONTEXT"
if [ "$PUSH_IMAGE" = true ]; then
    docker push "$IMAGE"
fi
