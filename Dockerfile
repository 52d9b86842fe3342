# Container with the locked packages. Build it in the project's folder and run the pipeline on that folder:
#   docker build --tag dualteacher .
#   docker run --rm --gpus all --shm-size=2g --user "$(id -u):$(id -g)" --volume "$PWD:/project" dualteacher
# Docker's default of 64 MB for /dev/shm is too little for runtime.workers > 0. Without a GPU, leave out --gpus.
# Like workflow/dualteacher.def, it does not contain the package: commands use the sources in /project.
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
COPY requirements.lock /opt/requirements.lock
# The locked uv, then the lock with it, as workflow/install.py does.
RUN sed -n '/^uv==/,/[^\\]$/p' /opt/requirements.lock > /opt/uv.txt \
    && python -m pip install --no-cache-dir --require-hashes -r /opt/uv.txt \
    && uv pip install --system --no-cache --compile-bytecode --no-deps --require-hashes -r /opt/requirements.lock

ENV HOME=/tmp
WORKDIR /project
CMD ["snakemake"]
