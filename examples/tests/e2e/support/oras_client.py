"""Push and pull with the oras client: push|pull|tags|delete REGISTRY/REPOSITORY[:TAG] ..."""
import json
import os
import sys

import oras.client
import oras.oci

command, target, *rest = sys.argv[1:]
host = target.split("/")[0]
# Over TLS only if told so; certificates are not what these tests are about.
insecure = "ORAS_TLS" not in os.environ
# This client is told beforehand whether it will be asked for a password or for a token.
backend = "basic" if "ORAS_USER" in os.environ else "token"
client = oras.client.OrasClient(
    hostname=host, insecure=insecure, tls_verify=False, auth_backend=backend
)
if "ORAS_USER" in os.environ:
    client.login(
        hostname=host,
        username=os.environ["ORAS_USER"],
        password=os.environ["ORAS_PASSWORD"],
        tls_verify=False,
    )

if command == "push":
    # FILE [chunk size | 0] [subject as a JSON descriptor]
    options = {}
    if len(rest) > 1 and int(rest[1]):
        options = {"do_chunked": True, "chunk_size": int(rest[1])}
    if len(rest) > 2:
        options["subject"] = oras.oci.Subject(**json.loads(rest[2]))
    response = client.push(
        target=target,
        files=[rest[0]],
        disable_path_validation=True,
        manifest_annotations={"org.example.purpose": "end to end"},
        quiet=True,
        **options,
    )
    response.raise_for_status()
    print(response.headers["Docker-Content-Digest"])
elif command == "pull":
    os.makedirs(rest[0], exist_ok=True)
    for path in client.pull(target=target, outdir=rest[0]):
        print(path)
elif command == "tags":
    for tag in client.get_tags(target):
        print(tag)
elif command == "delete":
    for tag in client.delete_tags(target, rest):
        print(tag)
else:
    sys.exit("unknown command")
