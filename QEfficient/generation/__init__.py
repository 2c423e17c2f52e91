from QEfficient.telemetry import turn_off_telemetry

turn_off_telemetry()
