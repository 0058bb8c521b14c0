"""A published ONNX model behind an HTTP endpoint: what a request may be, and which version answers.

POST /invocations ─► mlflow models serve ─► pyfunc_model ─► VideoService ─► decoding processes ─► runtime
                                                                             (one request's crash stays there)
"""
