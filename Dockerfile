# The one image of the stack: workers, Flower and the local Gemini differ only in their command.
# Another base, or a mirror of it: --build-arg PYTHON_IMAGE=registry.example/python:3.11-slim
ARG PYTHON_IMAGE=python:3.11-slim

# The dependencies, by way of an empty package: made again only when pyproject.toml changes.
FROM ${PYTHON_IMAGE} AS dependencies
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/venv
WORKDIR /build
COPY pyproject.toml hatch_build.py ./
RUN mkdir -p src/provider_uploads && touch src/provider_uploads/__init__.py README.md LICENSE \
 && pip --python /opt/venv/bin/python install '.[worker,emulator,flower,sources]' \
 && pip --python /opt/venv/bin/python uninstall --yes provider-uploads

FROM dependencies AS wheel
COPY README.md LICENSE ./
COPY src src
RUN pip wheel --no-deps --wheel-dir /dist .

# A change of our code is a small layer above the large one.
FROM ${PYTHON_IMAGE}
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY --from=dependencies /opt/venv /opt/venv
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-index /dist/*.whl
COPY config config
COPY tasks tasks
# Needs neither a name nor a home: any other user can be given with --user.
USER 1000:1000
CMD ["celery", "-A", "tasks", "worker", "--loglevel", "INFO"]
