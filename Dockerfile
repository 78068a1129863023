# An image with the package and its tested versions, for training on a cluster (docs/pipeline.md).
#
#     docker build -t aajr-hf .                                                                      # for a CPU
#     docker build -t aajr-hf --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .       # for CUDA
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /aajr-hf
COPY . .
# torch first: the package index has one build alone, and pip would replace none that fits.
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(grep '^torch==' constraints.txt)" \
    && pip install --no-cache-dir -c constraints.txt .
ENTRYPOINT ["aajr"]
