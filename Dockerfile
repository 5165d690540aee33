# One target for each component, with its own locked dependencies and its own code:
#
#   docker build --target function --build-arg STAGE=distance -t dev.local/milepost-distance:0.1.0 .
#   docker build --target bridge  -t dev.local/milepost-bridge:0.1.0 .
#   docker build --target gateway -t dev.local/milepost-gateway:0.1.0 .
#
# PROJECT is another folder with functions/, such as examples/feeds. LOCK is the name of the stage's lock file, if it differs
# from the stage's. BASE is any image with python3 (3.11 or newer) and venv. Buildah and podman build it too.

ARG BASE=python:3.13-slim

FROM ${BASE} AS python
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1
# Compile the standard library: python:slim has no bytecode, so each cold start would compile it, and a read-only root
# could not keep the result. Without checks, because these files never change.
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash \
      -x '/(test|tests|idlelib|lib2to3|tkinter|turtledemo|ensurepip|site-packages|dist-packages)/' \
      "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
WORKDIR /app

# pip is in an environment of its own, so that no image has it.
FROM python AS installer
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_REQUIRE_HASHES=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_PYTHON=/opt/venv/bin/python3
RUN python3 -m venv /opt/pip \
 && python3 -m venv --without-pip /opt/venv

# What every stage has. It is one layer, which a node needs once for all functions.
FROM installer AS stage-dependencies
COPY requirements/stage.txt /stage.txt
RUN /opt/pip/bin/pip install --no-compile -r /stage.txt \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib

# What this stage has besides: the files that its installation adds. A lock file that has another version of a package that
# every stage has is refused.
FROM stage-dependencies AS function-dependencies
ARG STAGE
ARG LOCK=${STAGE}
RUN : "${STAGE:?say which: --build-arg STAGE=distance}"
COPY requirements/${LOCK}.txt /requirements.txt
RUN touch /before \
 && /opt/pip/bin/pip install --no-compile -r /requirements.txt -c /stage.txt \
 && find /opt/venv ! -type d ! -cnewer /before -delete \
 && find /opt/venv -mindepth 1 -type d -empty -delete \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv

FROM installer AS gateway-dependencies
COPY requirements/gateway.txt /requirements.txt
RUN /opt/pip/bin/pip install --no-compile -r /requirements.txt \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib

FROM installer AS bridge-dependencies
COPY requirements/bridge.txt /requirements.txt
RUN /opt/pip/bin/pip install --no-compile -r /requirements.txt \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib

# The code's bytecode is checked against its source by hash, so that a file that is synced into a running pod is used at
# once, whatever its time.
#
# OWNER owns the code. It is root, who never runs here, unless `skaffold dev` has to overwrite the code.

FROM python AS function-base
ARG OWNER=0
COPY --from=stage-dependencies /opt/venv /opt/venv
COPY --chown=${OWNER} milepost/*.py milepost/
COPY --chown=${OWNER} milepost/events milepost/events
COPY --chown=${OWNER} milepost/function milepost/function
COPY --chown=${OWNER} milepost/server milepost/server
COPY --chown=${OWNER} milepost/observe milepost/observe
RUN python3 -m compileall -q --invalidation-mode checked-hash /app
# uvicorn does not read PORT: where another port than 8080 is wanted, UVICORN_PORT says so.
ENV FUNCTION_TARGET=main \
    UVICORN_HOST=0.0.0.0 \
    UVICORN_PORT=8080 \
    UVICORN_HTTP=milepost.server.protocol:Protocol \
    UVICORN_LIFESPAN=on \
    UVICORN_LOG_LEVEL=warning \
    UVICORN_ACCESS_LOG=false \
    UVICORN_WS=none
EXPOSE 8080

FROM function-base AS function
ARG STAGE
ARG PROJECT=.
ARG OWNER=0
COPY --from=function-dependencies /opt/venv /opt/venv
COPY --chown=${OWNER} ${PROJECT}/functions/*.py functions/
COPY --chown=${OWNER} ${PROJECT}/functions/${STAGE} functions/${STAGE}
RUN python3 -m compileall -q --invalidation-mode checked-hash /app/functions
ENV FUNCTION_SOURCE=/app/functions/${STAGE}/main.py
USER 65532:65532
CMD ["uvicorn", "milepost.function.app:app"]

FROM python AS gateway
ARG OWNER=0
COPY --from=gateway-dependencies /opt/venv /opt/venv
COPY --chown=${OWNER} milepost milepost
COPY --chown=${OWNER} functions/__init__.py functions/payloads.py functions/
COPY --chown=${OWNER} gateway gateway
RUN python3 -m compileall -q --invalidation-mode checked-hash /app
ENV HOST=0.0.0.0 \
    PORT=8080
EXPOSE 8080
USER 65532:65532
CMD ["python3", "-m", "gateway"]

FROM python AS bridge
ARG OWNER=0
COPY --from=bridge-dependencies /opt/venv /opt/venv
COPY --chown=${OWNER} milepost milepost
RUN python3 -m compileall -q --invalidation-mode checked-hash /app
ENV HOST=0.0.0.0 \
    PORT=8080
EXPOSE 8080
USER 65532:65532
CMD ["python3", "-m", "milepost.bridge"]
