# One target a component, of its own locked dependencies and its own code:
#
#   docker build --target function --build-arg STAGE=distance -t dev.local/milepost-distance:0.1.0 .
#   docker build --target bridge  -t dev.local/milepost-bridge:0.1.0 .
#   docker build --target gateway -t dev.local/milepost-gateway:0.1.0 .
#
# PROJECT is another folder with functions/, as examples/feeds; LOCK the lock file of the stage if not that of its name.
# BASE is any image that has python3 (3.11 or newer) with venv. Buildah and podman build it too.

ARG BASE=python:3.13-slim

FROM ${BASE} AS python
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1
# python:slim ships the standard library without bytecode: each cold start would compile it, and on a read-only root
# file system keep nothing of that. Unchecked, because nothing changes it here.
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash \
      -x '/(test|tests|idlelib|lib2to3|tkinter|turtledemo|ensurepip|site-packages|dist-packages)/' \
      "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
WORKDIR /app

FROM python AS installer
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_REQUIRE_HASHES=1 \
    PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/venv

FROM installer AS function-dependencies
ARG STAGE
ARG LOCK=${STAGE}
RUN : "${STAGE:?say which: --build-arg STAGE=distance}"
COPY requirements/${LOCK}.txt /requirements.txt
RUN pip install --no-compile -r /requirements.txt \
 && pip uninstall --yes --quiet setuptools pip \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib

FROM installer AS gateway-dependencies
COPY requirements/gateway.txt /requirements.txt
RUN pip install --no-compile -r /requirements.txt \
 && pip uninstall --yes --quiet setuptools pip \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib

FROM installer AS bridge-dependencies
COPY requirements/bridge.txt /requirements.txt
RUN pip install --no-compile -r /requirements.txt \
 && pip uninstall --yes --quiet setuptools pip \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib

# The code's bytecode is checked against its source by hash: a file that is synced into a running pod counts at once,
# and a file time that a registry has changed does not.
#
# OWNER owns the code: root, who never runs here, unless `skaffold dev` must write it.

FROM python AS function
ARG STAGE
ARG PROJECT=.
ARG OWNER=0
COPY --from=function-dependencies /opt/venv /opt/venv
COPY --chown=${OWNER} milepost/*.py milepost/
COPY --chown=${OWNER} milepost/function milepost/function
COPY --chown=${OWNER} ${PROJECT}/functions/*.py functions/
COPY --chown=${OWNER} ${PROJECT}/functions/${STAGE} functions/${STAGE}
RUN python3 -m compileall -q --invalidation-mode checked-hash /app
# uvicorn does not read PORT: where another port than 8080 is wanted, UVICORN_PORT says so.
ENV FUNCTION_SOURCE=/app/functions/${STAGE}/main.py \
    FUNCTION_TARGET=main \
    UVICORN_HOST=0.0.0.0 \
    UVICORN_PORT=8080 \
    UVICORN_HTTP=milepost.answers:OneWrite \
    UVICORN_LIFESPAN=on \
    UVICORN_LOG_LEVEL=warning \
    UVICORN_ACCESS_LOG=false \
    UVICORN_WS=none
EXPOSE 8080
USER 65532:65532
CMD ["uvicorn", "functions_framework.aio:app"]

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
