"""The coverage study at full size: `PYTHONPATH=tests/support python tests/benchmarks/coverage.py`."""

import argparse

import coverage_study

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=200, help="bootstrap draws per interval")
    asked = parser.parse_args()
    print("| statistic | runs | share of 95 % intervals that hold the truth |\n|---|---:|---:|")
    for name in coverage_study.STUDIES:
        result = coverage_study.study(name, asked.runs, asked.samples)
        print(f"| {name} | {result.runs} | {result.share:.3f} |", flush=True)
