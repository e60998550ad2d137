"""What the libraries compute once in a process, at the first use of them: done before processes are forked.

Imported for that alone, after the libraries; by the server of tests/commands.py for each of its commands.
"""

import inspect

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

get_checkpoint_conversion_mapping("llama")  # compiles a thousand patterns
inspect.getmodule(inspect.currentframe())  # asks for the real path of every module
