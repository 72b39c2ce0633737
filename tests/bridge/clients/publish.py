"""Publishes a fixed set of bodies with requests, or with http.client where that is missing: publish URL TOPIC FOLDER."""

import http.client
import pathlib
import sys
import urllib.parse

try:
    import requests
except ImportError:
    requests = None

url, topic, folder = sys.argv[1:]


def file(name):
    return (pathlib.Path(folder) / name).read_bytes()


def pieces(body):
    yield body[:100]
    yield body[100:]


if requests:
    session = requests.Session()

    def post(target, body):
        answer = session.post(url + target, data=body)
        return answer.status_code, answer.text
else:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)

    def post(target, body):
        connection.request("POST", target, body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


print("requests" if requests else "http.client", file=sys.stderr)
for name, target, body in [
    ("bytes", "/pub?topic=", file("bytes")),
    ("large", "/pub?topic=", file("large")),
    ("empty", "/pub?topic=", b""),
    ("lines", "/mpub?topic=", file("lines")),
    ("batch", "/mpub?binary=true&topic=", file("batch")),
    ("chunks", "/pub?topic=", pieces(file("bytes"))),
]:
    print(name, *post(target + topic, body))
