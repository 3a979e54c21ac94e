import sys
from pathlib import Path

# Scenes that several test files and the script that records them share.
sys.path.append(str(Path(__file__).parent))
