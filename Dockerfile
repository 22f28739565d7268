# The service on one machine: docker build -t xvlm . && docker compose up
FROM python:3.11-slim

RUN useradd --create-home xvlm
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY xvlm ./xvlm
RUN pip install --no-cache-dir -c constraints.txt '.[search,app]'

USER xvlm
EXPOSE 8000
# The model and the index are mounted; XVLM_TOKEN must be set, since the service listens to all addresses.
ENTRYPOINT ["xvlm", "serve", "--host", "0.0.0.0", "--index", "/data/index", "--model", "/data/model"]
