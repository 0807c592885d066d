"""The command algm-eval: accuracy of models on data sets with ground truth, and how far models drift apart."""
