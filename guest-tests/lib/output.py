"""What of a guest's console is shown."""

import collections


class Output:
    """Prints a guest's lines; when quiet, only where a suite begins and ends, and the last lines of one that failed."""

    def __init__(self, quiet: bool, tail: int = 40):
        self.quiet = quiet
        self.recent: collections.deque[str] = collections.deque(maxlen=tail)

    def __call__(self, line: str) -> None:
        event = line.startswith("--- ")
        if self.quiet and event and "exit status" in line and "exit status 0 " not in line:
            print("".join(f"  | {old}\n" for old in self.recent), end="")
        if event:
            self.recent.clear()
        else:
            self.recent.append(line)
        if event or not self.quiet:
            print(f"  | {line}", flush=True)
