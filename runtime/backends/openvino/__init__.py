"""OpenVINO on a CPU, in float32 or bfloat16."""
