"""The ten-line version: a plain function, submitted, mapped, and its results. Start a factory first: `make up`."""

import factory


@factory.job(cpu=0.5, memory="256MiB")
def double(x: int) -> int:
    print(f"doubling {x}")
    return 2 * x


if __name__ == "__main__":
    job = double.submit(21)
    print(job.explain().message)
    print("result:", job.result())
    print("mapped:", double.map(range(5)).results())
