"""What the command line does: fields, data files, training, evaluation, reports."""
