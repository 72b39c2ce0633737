//! nsqbridge moves a running NSQ installation to Apache RocketMQ.
pub mod retry;
pub mod rocketmq;
