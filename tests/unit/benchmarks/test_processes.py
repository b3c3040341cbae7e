"""What a command and the processes under it took."""

import os
import sys

import psutil

from benchmarks.measuring.processes import measured

CHILD = """
import os, subprocess, sys, time
def work(mib, seconds):
    return [sys.executable, "-c", f"import time; x = b'x' * ({mib} << 20); "
        f"end = time.process_time() + {seconds}\\nwhile time.process_time() < end: pass\\n"
        "time.sleep(0.5)"]
subprocess.run(work(150, 0.5), check=True)
orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("done", orphan.pid, flush=True)
os._exit(3)
"""


def test_children_count_and_what_is_left_is_ended():
    usage = measured([sys.executable, "-c", CHILD], os.environ)
    assert usage.code == 3
    assert 0.5 <= usage.cpu < 5
    assert 150 <= usage.peak_anonymous <= usage.peak_process < 300
    assert usage.wall >= 1.0
    assert not psutil.pid_exists(int(usage.output.split()[1]))


def test_bytes_written_count_though_the_file_is_gone(tmp_path):
    code = (
        "import os, sys, time; f = open(sys.argv[1], 'wb'); f.write(b'x' * (20 << 20)); f.flush(); "
        "os.fsync(f.fileno()); os.unlink(sys.argv[1]); time.sleep(0.5)"
    )
    usage = measured([sys.executable, "-c", code, str(tmp_path / "x")], os.environ)
    assert usage.code == 0, usage.errors
    assert 20 <= usage.written < 25
