//! Real RocketMQ and NSQ servers on loopback.
