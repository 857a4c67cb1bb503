# syntax=docker/dockerfile:1
# One image for every process of a team: gateway, orchestrator, agents in Python, and the sidecar of those that are not.
#   docker build -t roster .                          the command
#   docker build -t roster-agent --target agent .     the same, with the agents of examples/
ARG PYTHON=3.13

FROM python:${PYTHON}-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# What is installed has no pip: nothing is installed into a running container.
RUN python -m venv --without-pip /opt/roster
COPY requirements/image.txt requirements/build.txt requirements/
RUN pip --python /opt/roster/bin/python install --require-hashes -r requirements/image.txt
RUN pip install --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && pip --python /opt/roster/bin/python install --no-deps --no-index dist/*.whl

FROM python:${PYTHON}-slim-bookworm AS roster
LABEL org.opencontainers.image.title="roster" \
      org.opencontainers.image.description="Service discovery and routing for teams of AI agents" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
RUN groupadd --gid 10001 roster \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/roster --no-create-home --shell /usr/sbin/nologin roster \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/roster
COPY --from=build /opt/roster /opt/roster
ENV PATH=/opt/roster/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ROSTER_STATE_DIR=/var/lib/roster
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["roster"]
CMD ["--help"]

# Agents of your own: FROM roster, COPY the program, name its file.
FROM roster AS agent
COPY examples examples
ENTRYPOINT ["python"]
CMD ["examples/writer.py"]

# What is built without --target.
FROM roster
