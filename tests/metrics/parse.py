"""Reads Prometheus text from standard input with Prometheus' own parser and writes its families as JSON.

Fails where the parser is lenient and a scrape is not: a family or a series given twice, a counter or bucket that is
no whole number, a histogram whose buckets, sum and count do not agree.
"""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families


def check_histogram(family):
    by_labels = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        series = by_labels.setdefault(json.dumps(labels, sort_keys=True), {"buckets": []})
        if sample.name.endswith("_bucket"):
            series["buckets"].append((float(sample.labels["le"]), sample.value))
        else:
            series[sample.name.removeprefix(family.name)] = sample.value
    for labels, series in by_labels.items():
        bounds = [bound for bound, _ in series["buckets"]]
        counts = [count for _, count in series["buckets"]]
        assert bounds == sorted(set(bounds)), f"bounds of {labels} are not in order: {bounds}"
        assert bounds[-1] == float("inf"), f"{labels} has no last bucket"
        assert counts == sorted(counts), f"buckets of {labels} are not cumulated: {counts}"
        assert counts[-1] == series["_count"], f"the last bucket of {labels} is not its count"
        assert series["_sum"] >= 0 and (series["_count"] > 0 or series["_sum"] == 0), f"the sum of {labels}"


def main():
    families = {}
    seen = set()
    for family in text_string_to_metric_families(sys.stdin.buffer.read().decode()):
        assert family.name not in families, f"{family.name} is given twice"
        assert family.documentation, f"{family.name} has no HELP"
        assert family.type != "unknown", f"{family.name} has no TYPE"
        for sample in family.samples:
            key = (sample.name, json.dumps(sample.labels, sort_keys=True))
            assert key not in seen, f"{key} is given twice"
            seen.add(key)
            if not sample.name.endswith("_sum"):
                assert sample.value == int(sample.value) >= 0, f"{key} is {sample.value}"
        if family.type == "histogram":
            check_histogram(family)
        families[family.name] = {
            "type": family.type,
            "samples": [
                {"name": sample.name, "labels": sample.labels, "value": sample.value} for sample in family.samples
            ],
        }
    json.dump(families, sys.stdout)


main()
