# The operator's image: the program, its Python packages, and the parts of Debian that they need.
#
# BASE_IMAGE can be any Debian with python3, venv and CA certificates. There are three stages: `build` installs the
# locked packages by hash, `root` creates the file system, and the last stage contains only that file system, so that
# no layer contains what `root` removes. `make image` builds it. Its two optional secrets, a CA certificate and a
# pip.conf, are available only while pip runs and are not in the image. There is no HEALTHCHECK, because Kubernetes
# uses /healthz and /readyz.
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/scheduledjob
WORKDIR /source
COPY requirements-image.lock requirements-wheel.lock ./
RUN --mount=type=secret,id=authority,target=/run/authority.crt --mount=type=secret,id=pip,target=/run/pip.conf \
    set -eu; \
    if [ -s /run/pip.conf ]; then export PIP_CONFIG_FILE=/run/pip.conf; fi; \
    if [ -s /run/authority.crt ]; then export PIP_CERT=/run/authority.crt; fi; \
    /build/bin/pip install --quiet --only-binary :all: --require-hashes -r requirements-wheel.lock; \
    /build/bin/pip --python /opt/scheduledjob/bin/python3 install --quiet --no-compile --only-binary :all: \
        --require-hashes -r requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
COPY image/strip.py ./
# The version comes from a git tag, and the build has no git repository.
ARG VERSION=0.0.0
# Remove what is never read: C sources, symbols, and lexers for all languages. Kubernetes' client is used only to read
# kubeconfigs, so remove its API classes and models, and the second copy of them for asyncio.
RUN set -eu; \
    export PIP_NO_INDEX=1 SETUPTOOLS_SCM_PRETEND_VERSION="${VERSION}"; \
    /build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheel .; \
    /build/bin/pip --python /opt/scheduledjob/bin/python3 install --quiet --no-deps --no-compile /wheel/*.whl; \
    cd /opt/scheduledjob/lib/python3*/site-packages; \
    rm -rf kubernetes/aio kubernetes/client/api google/cloud/firestore_admin_v1; \
    find kubernetes/client/models -name 'v*.py' ! -name v1_object_meta.py ! -name v1_managed_fields_entry.py \
        ! -name v1_owner_reference.py -delete; \
    find pygments/lexers -name '[a-z]*.py' ! -name python.py -delete; \
    find . -type f \( -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' \) -delete; \
    python3 /source/strip.py .

FROM ${BASE_IMAGE} AS root
COPY --from=build /opt/scheduledjob /opt/scheduledjob
COPY image/trim.py /tmp/
# Keep a shell and its tools for shell jobs in Pods with this image; the operator itself does not use them. Bytecode is
# never compared with its source, because neither changes. Only root can write to the file system, including /tmp, which
# is a mount point.
RUN set -eu; \
    if dpkg-query --show python3-venv >/dev/null 2>&1; then \
        DEBIAN_FRONTEND=noninteractive apt-get purge --yes --auto-remove python3-venv 'python3.*-venv' >/dev/null; \
    fi; \
    python="$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"; \
    for each in ensurepip idlelib lib2to3 pydoc_data test tkinter turtledemo; do rm -rf "$python/$each"; done; \
    rm -rf /usr/local/lib/python3*/site-packages/* /usr/local/bin/pip* /usr/share/python-wheels /root/.cache; \
    python3 /tmp/trim.py; \
    rm -rf /var/lib/dpkg/info /usr/lib/*/gconv /usr/lib/apt /usr/lib/*/perl-base; \
    rm -rf /usr/share/man /usr/share/info /usr/share/locale /usr/share/lintian; \
    find /usr/share/doc -type f ! -name copyright -delete; \
    find /usr/share/doc -depth -type d -empty -delete; \
    rm -rf /var/lib/apt /var/cache/* /var/log/* /var/backups/* /tmp/* /var/tmp/*; \
    echo 'scheduledjob:x:65532:65532::/tmp:/usr/sbin/nologin' >>/etc/passwd; \
    echo 'scheduledjob:x:65532:' >>/etc/group; \
    python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash "$python" /opt/scheduledjob/lib; \
    find / -xdev -type f -perm /6000 -exec chmod a-s {} +; \
    find / -xdev ! -type l -perm -o=w -exec chmod o-w {} +; \
    /opt/scheduledjob/bin/python3 -c \
        'import scheduledjob.cli.scheduledjob.main, scheduledjob.kube.operator, scheduledjob.stores.firestore.wire, rich.traceback'

FROM scratch
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ScheduledJob operator" \
      org.opencontainers.image.description="Runs ScheduledJobs, by cron, interval or event, and never loses a run" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=root / /
ENV PATH=/opt/scheduledjob/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["scheduledjob"]
CMD ["operator"]
