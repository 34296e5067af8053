"""Compare the layouts of two bundles of one workload. Arguments: two paths."""

import sys

from foundryrt.bundle.reader import Bundle

first, second = (Bundle.open(path).manifest for path in sys.argv[1:3])
same = {
    name: getattr(first, name) == getattr(second, name)
    for name in ("regions", "tensors", "kernels", "functions", "templates")
}
same["members"] = len(first.graphs) == len(second.graphs)
print({"equal": same})
