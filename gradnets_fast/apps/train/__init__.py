"""`gradnets-fast train`: fields, data files, training, evaluation and reports; `cli/train_command.py` calls them."""
