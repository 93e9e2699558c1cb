"""Has Prometheus' Python client read an answer of /metrics from stdin: prints, as JSON, its samples as lists of name, labels and value."""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families

samples = []
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.type == "gauge" and family.documentation, family
    samples += [[sample.name, sample.labels, sample.value] for sample in family.samples]
print(json.dumps(samples))
