# What a cluster's container runtime (pyxis and enroot, Apptainer, Docker) runs the ranks in: `container.image` of a cluster's profile.
#
#     docker build --tag mplug2 .
#     docker build --tag mplug2 --build-arg WHEELS=wheels --network none .     from the folder that `make wheels` filled
#
# CUDA comes with torch's own wheels, the driver from the host. A launch brings its own copy of the project's code, before the image's: one
# image serves until setup.py or constraints.txt change.
FROM python:3.11-slim-bookworm

# What NVIDIA's runtime puts into the container: the driver for torch and NCCL, and that of NVDEC for DALI.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video PYTHONUNBUFFERED=1

ARG WHEELS=
# What Triton builds its kernels' launchers with; without it, as where wheels alone are at hand, torch's kernels do their work.
RUN if [ -z "$WHEELS" ]; then apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; fi
# The folder is mounted, not copied: wheels are gigabytes. What the build writes into it is thrown away.
RUN --mount=type=bind,target=/project,rw cd /project \
 && if [ -n "$WHEELS" ]; then export PIP_NO_INDEX=1 PIP_FIND_LINKS="$WHEELS"; fi \
 && pip install --no-cache-dir --constraint constraints.txt pip setuptools \
 && pip install --no-cache-dir --no-build-isolation --constraint constraints.txt '.[dali,remote,hf]'

CMD ["mplug2", "--help"]
