//! Runs programs of RocketMQ: files placed, Java told where everything is.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::error::cannot;
use crate::options::Settings;
use crate::server::{Launch, Server};
use crate::tools::Tool;
use crate::versions::Line;
use crate::{Result, fetch};

/// Needed on JDK 9 and later, where RocketMQ reaches into the JDK's internals.
const OPENINGS: [&str; 13] = [
    "-XX:+IgnoreUnrecognizedVMOptions",
    "--add-exports",
    "java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports",
    "java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens",
    "java.base/java.nio=ALL-UNNAMED",
    "--add-opens",
    "java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens",
    "java.base/java.lang=ALL-UNNAMED",
    "--add-opens",
    "java.base/java.util=ALL-UNNAMED",
];

/// Line 4 does not start without the file of its kind; line 5 is told which one to read.
const LOGBACK_FILES: [&str; 3] =
    ["conf/logback_broker.xml", "conf/logback_namesrv.xml", "conf/logback_tools.xml"];

/// Warnings to standard output, which is the server's log.
const LOGBACK: &str = r#"<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %p %c{1} - %m%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="OUT"/></root>
</configuration>
"#;

/// A server's configuration file, below its folder.
pub(crate) const CONF: &str = "server.conf";

/// Writes the server's files and says how to run it.
pub(crate) fn prepare(
    line: Line,
    folder: &Path,
    conf: &[(&str, String)],
    settings: &Settings,
    heap: &[&str],
    main: &str,
) -> Result<Command> {
    let filled = |text: &str| filled(text, folder);
    let place = |path: &str, text: &str| {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(cannot("create", parent))?;
        fs::write(&path, filled(text)).map_err(cannot("write", &path))
    };
    let own = conf.iter().map(|(key, value)| format!("{key}={value}\n"));
    let theirs = settings.conf.iter().map(|(key, value)| format!("{key}={value}\n"));
    place(CONF, &own.chain(theirs).collect::<String>())?;
    for path in LOGBACK_FILES {
        place(path, LOGBACK)?;
    }
    for (path, text) in &settings.files {
        place(path, text)?;
    }

    let mut command = java(line, folder)?;
    // A key and a certificate would be half of the work of a start.
    command.arg("-Dtls.server.mode=disabled");
    command.args(heap).args(settings.jvm.iter().map(|flag| filled(flag)));
    command.args([main, "-c"]).arg(folder.join(CONF));
    command.envs(settings.env.iter().map(|(name, value)| (name, filled(value))));
    Ok(command)
}

/// What [`Settings`] say, with the server's folder in place.
fn filled(text: &str, folder: &Path) -> String {
    text.replace("{home}", &folder.display().to_string())
}

/// Java with the jars of `line` in its class path and everything it writes in `folder`; flags, main class and
/// arguments are for the caller to add.
fn java(line: Line, folder: &Path) -> Result<Command> {
    let jars = fetch::rocketmq(line)?;
    let mut command = Command::new(Tool::Java.find()?);
    command.args(OPENINGS).arg("-XX:+UseSerialGC");
    // Logs and stores go below the home folder unless told otherwise.
    command.arg(format!("-Duser.home={}", folder.display()));
    // With TLS each start makes itself a key and a certificate there.
    command.arg(format!("-Djava.io.tmpdir={}", folder.display()));
    command.arg(format!("-Drmq.logback.configurationFile={}", folder.join(LOGBACK_FILES[0]).display()));
    command.arg("-cp").arg(jars.join("*"));
    command.env("ROCKETMQ_HOME", folder).current_dir(folder);
    // Somebody's own cluster must not leak into a test.
    command.env_remove("NAMESRV_ADDR").env_remove("JAVA_TOOL_OPTIONS");
    Ok(command)
}

/// Runs another program of RocketMQ under supervision: an admin command or a benchmark; or one that uses its client.
///
/// `main` is the class, such as `org.apache.rocketmq.tools.command.MQAdminStartup` (both lines) or
/// `org.apache.rocketmq.example.benchmark.Producer` (line 5 only; it works against line 4 as well), or the path of a
/// Java source file. Of the settings only flags of the Java runtime count.
///
/// # Errors
/// The fetch failed, or the process could not be made.
pub fn run(line: Line, settings: &Settings, main: &str, args: &[&str]) -> Result<Server> {
    let title = main.rsplit('.').next().unwrap_or(main);
    Server::start(title, |folder, _| {
        fs::create_dir_all(folder.join("conf")).map_err(cannot("create", folder))?;
        for path in LOGBACK_FILES.map(|path| folder.join(path)) {
            fs::write(&path, LOGBACK).map_err(cannot("write", &path))?;
        }
        let mut command = java(line, folder)?;
        let flags = settings.jvm.iter().map(|flag| filled(flag, folder));
        command.arg("-Xmx256m").args(flags).arg(main).args(args);
        Ok(Launch { command, ready: Box::new(|_| true) })
    })
}
