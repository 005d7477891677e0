"""Prints the samples of a Prometheus text on standard input as JSON: FORMAT (text|openmetrics)"""
import json
import sys

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

parse = {
    "text": parser.text_string_to_metric_families,
    "openmetrics": openmetrics_parser.text_string_to_metric_families,
}[sys.argv[1]]

families = list(parse(sys.stdin.read()))
names = [family.name for family in families]
assert len(names) == len(set(names)), "a family comes twice"
samples = []
for family in families:
    assert family.type != "unknown", f"{family.name} has no type"
    assert family.documentation, f"{family.name} has no help"
    for sample in family.samples:
        samples.append([sample.name, sample.labels, sample.value])
json.dump(samples, sys.stdout)
