# docker build -t bnfold . && docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" bnfold optimize in.onnx out.onnx
# The image of the service is deploy/Dockerfile.
FROM python:3.11-slim
COPY . /source
RUN pip install --no-cache-dir '/source[cpu,report]' && rm -rf /source && useradd --system --uid 1000 bnfold
USER bnfold
WORKDIR /work
ENTRYPOINT ["bnfold"]
CMD ["--help"]
