# The service alone: no training code, no compiler, no root. docs/container.md says how it is built and run.

# Any Debian or Ubuntu with Python 3.11 or later to install will do.
ARG BASE=docker.io/library/python:3.11.14-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE} AS python
# Python's own image brings python3; a plain system has it installed here. Pinning is the business of BASE.
# hadolint ignore=DL3008
RUN command -v python3 \
    || { apt-get update \
        && apt-get install --yes --no-install-recommends python3-venv \
        && rm -rf /var/lib/apt/lists/*; }

FROM python AS build
# Where pip looks for torch besides its default index. Empty: that index alone, whose Linux wheel brings CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/ner
ENV PATH=/opt/ner/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
# The largest part by far, in a layer that only a new pin renews.
RUN pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY ner_service ner_service
# Extras of the service: `serve`, or `serve,ocr` for one that reads images.
ARG EXTRAS=serve
RUN pip install --constraint constraints.txt ".[${EXTRAS}]" \
    && pip uninstall --yes pip

FROM python
LABEL org.opencontainers.image.title="ner-service" \
      org.opencontainers.image.description="Named entities, nested and scored, over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/ner /opt/ner
COPY models/starter /models/starter
ENV PATH=/opt/ner/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NER_HOST=0.0.0.0 \
    NER_PORT=8000 \
    NER_MODEL=/models/starter
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as web; web.urlopen(f'http://127.0.0.1:{os.environ[\"NER_PORT\"]}/health/ready', timeout=2)"]
ENTRYPOINT ["ner-service"]
CMD ["serve"]
