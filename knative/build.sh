#!/bin/sh
# What skaffold.yaml builds an image with: knative/build.sh COMPONENT. Skaffold says IMAGE, PUSH_IMAGE and BUILD_CONTEXT.
#
# Its own Docker builder reads the COPY lines of every target, whichever is built: it would end at those whose build
# arguments are missing, and build every image anew for every change.
set -eu

component=$1
case $component in
    bridge | gateway) set -- --target "$component" ;;
    *) set -- --target function --build-arg STAGE="$component" ;;
esac
if [ "$PUSH_IMAGE" = false ]; then
    set -- "$@" --build-arg OWNER=65532  # `skaffold dev` writes the code of running pods, as the user they run as
fi

export DOCKER_BUILDKIT=1  # without it, targets that nobody asked for are built too
docker build "$@" -t "$IMAGE" "$BUILD_CONTEXT"
if [ "$PUSH_IMAGE" = true ]; then
    docker push "$IMAGE"
fi
