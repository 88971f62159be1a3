# An image with genrec and the versions of requirements.lock, for CPUs and for NVIDIA GPUs:
#
#   docker build --tag genrec .
#   docker build --tag genrec:gpu --build-arg DEVICE=gpu .
#
# docs/installation.md, "In a container", has the build arguments and the commands that run the image.
ARG PYTHON_VERSION=3.12.12

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
# cpu or gpu: installs faiss-cpu or faiss-gpu. With gpu the build fails if torch has no CUDA.
ARG DEVICE=cpu
# Optional dependencies of pyproject.toml.
ARG EXTRAS=serve,report,track,tune
# Address of a package index that has another build of the pinned torch, such as one without CUDA. Empty: pip's own index alone.
ARG TORCH_INDEX=
ENV PATH=/opt/genrec/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements.lock ./
# In a layer of its own: a change of genrec does not download torch again.
RUN python -m venv /opt/genrec && \
    pip install --no-cache-dir --constraint requirements.lock ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch setuptools
COPY pyproject.toml README.md LICENSE ./
COPY genrec genrec
COPY experiments/quickstart.py experiments/
RUN pip install --no-cache-dir --no-build-isolation --constraint requirements.lock ".[${DEVICE},${EXTRAS}]" && \
    python -c "import torch; assert torch.version.cuda or '${DEVICE}' == 'cpu', 'DEVICE=gpu needs a build of torch with CUDA'"

FROM python:${PYTHON_VERSION}-slim-bookworm
# Id of the user in the container. Give that of the owner of the folder that you mount.
ARG USER_ID=1000
RUN useradd --create-home --home-dir /home/genrec --uid "${USER_ID}" genrec && \
    install --directory --owner "${USER_ID}" /home/genrec/work
COPY --from=build /opt/genrec /opt/genrec
ENV PATH=/opt/genrec/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER ${USER_ID}
WORKDIR /home/genrec/work
ENTRYPOINT ["genrec"]
CMD ["--help"]
