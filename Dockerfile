# One image for CPU and CUDA: torch's wheels for Linux bring the CUDA libraries along.
#   docker build -t mhmoe .
#   docker run --rm mhmoe make reproduce-table1 SCALE=smoke
#   docker run --rm --gpus all -v "$PWD/results:/mhmoe/results" mhmoe make reproduce-table1 SCALE=gpu
# A smaller one, for CPUs alone: --build-arg PIP_EXTRA_INDEX_URL=... with an index of torch's CPU wheels.
FROM python:3.11-slim
ARG PIP_EXTRA_INDEX_URL=""
RUN apt-get update && apt-get install --yes --no-install-recommends g++ git make && rm -rf /var/lib/apt/lists/*
WORKDIR /mhmoe
COPY . .
RUN make setup
CMD ["make"]
