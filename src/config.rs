//! The configuration file: TOML, one key for each flag.
//!
//! | section | keys |
//! |---|---|
//! | `log`, `process`, `admin`, `rocketmq`, `names` | what several roles share |
//! | `gateway`, `transfer`, `intake` | the role's own flags, with `_` for `-`; `nsqbridge run` runs the roles that have a section |
//!
//! What the file says becomes the default of the flag: so flags win over the environment and both over the file, and a
//! value means and is checked the same wherever it stands. All problems of a file are reported together, each with its
//! key, its value and what is accepted.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, Args, CommandFactory, FromArgMatches, error::ContextKind};
use toml::{Table, Value};

use crate::{
    cli::{
        AddressOrNone, AdminArgs, Cli, Command, GatewayArgs, IntakeArgs, LogArgs, NamesArgs, ProcessArgs,
        Question, RocketmqArgs, Role, TransferArgs,
    },
    problems::{Listed, Problem, read_toml, unknown},
};

/// What the process is to do.
#[derive(Debug)]
pub struct Invocation {
    /// How to log.
    pub log: LogArgs,
    /// Threads that do the work.
    pub threads: usize,
    /// What to do.
    pub work: Work,
}

/// What a process does.
#[derive(Debug)]
pub enum Work {
    /// Goes on until it is told to stop.
    Run {
        /// One role, or for `run` every role the file has a section for.
        roles: Vec<Role>,
        /// Where monitoring finds the process.
        admin: Option<AdminListener>,
    },
    /// Ends an intake for good.
    Retire(Box<IntakeArgs>),
    /// Answers, or does something once.
    Ask(Question),
}

/// Where monitoring finds the process.
#[derive(Debug)]
pub struct AdminListener {
    /// Where to listen.
    pub address: SocketAddr,
    /// Nobody asked for this address.
    pub is_default: bool,
    /// The certificate to show.
    pub tls_cert: Option<PathBuf>,
    /// Its private key.
    pub tls_key: Option<PathBuf>,
    /// A file with the token to ask for.
    pub token_file: Option<PathBuf>,
    /// It may be open to anybody.
    pub insecure: bool,
}

impl AdminListener {
    /// `None` when monitoring is to find nothing.
    fn new(args: &AdminArgs, default_port: u16) -> Option<Self> {
        let default = SocketAddr::from(([127, 0, 0, 1], default_port));
        Some(Self {
            address: args.admin_address.map_or(Some(default), |AddressOrNone(address)| address)?,
            is_default: args.admin_address.is_none(),
            tls_cert: args.admin_tls_cert.clone(),
            tls_key: args.admin_tls_key.clone(),
            token_file: args.admin_token_file.clone(),
            insecure: args.admin_insecure,
        })
    }
}

/// Why there is nothing to do.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// What the command line says cannot be understood, or help was asked for.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// The file cannot be read.
    #[error("{}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file says what cannot be.
    #[error("{}: {}", path.display(), Listed(problems))]
    Problems {
        /// The file.
        path: PathBuf,
        /// Everything wrong with it.
        problems: Vec<Problem>,
    },
    /// `run` without roles.
    #[error(
        "`nsqbridge run` needs a configuration file (-c FILE) with a section [gateway], [transfer] or [intake]"
    )]
    NoRoles,
}

/// Reads the command line, the environment and the configuration file they name.
///
/// # Errors
/// See [`Refusal`].
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, Refusal> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let path = glance(&arguments).and_then(|matches| matches.get_one::<PathBuf>("config").cloned());
    let file = path.map(|path| Ok::<_, Refusal>((read(&path)?, path))).transpose()?;
    with_file(arguments, file)
}

/// What is said, before the file is known: what else is needed may stand there.
fn glance(arguments: &[OsString]) -> Option<clap::ArgMatches> {
    Cli::command().ignore_errors(true).try_get_matches_from(arguments).ok()
}

/// What arguments, environment and the content of a file come to.
pub(crate) fn with_file(
    arguments: Vec<OsString>,
    file: Option<(Table, PathBuf)>,
) -> Result<Invocation, Refusal> {
    let mut command = Cli::command();
    let mut sections = Vec::new();
    if let Some((file, path)) = file {
        let settings = check(&file).map_err(|problems| Refusal::Problems { path, problems })?;
        let planned = follows_a_plan(&arguments);
        command =
            settings.into_iter().fold(command, |command, setting| with_default(command, setting, planned));
        sections = file.keys().cloned().collect();
    }
    let cli = Cli::from_arg_matches(&command.clone().try_get_matches_from(arguments)?)?;
    let (threads, work) = match cli.command {
        Command::Run(run) => {
            let named = ["gateway", "transfer", "intake"]
                .into_iter()
                .filter(|role| sections.iter().any(|name| name == role));
            let mut roles = Vec::new();
            for name in named {
                let matches = command.clone().try_get_matches_from(["nsqbridge", name])?;
                if let Command::Role(role) = Cli::from_arg_matches(&matches)?.command {
                    roles.push(role);
                }
            }
            if roles.is_empty() {
                return Err(Refusal::NoRoles);
            }
            (run.process.threads, Work::Run { roles, admin: AdminListener::new(&run.admin, 4155) })
        }
        Command::Role(Role::Intake(args)) if args.retire => (1, Work::Retire(args)),
        Command::Role(role) => {
            let (admin, process, port) = match &role {
                Role::Gateway(args) => (&args.admin, &args.process, 4153),
                Role::Transfer(args) => (&args.admin, &args.process, 4154),
                Role::Intake(args) => (&args.admin, &args.process, 4156),
            };
            let (admin, threads) = (AdminListener::new(admin, port), process.threads);
            (threads, Work::Run { roles: vec![role], admin })
        }
        Command::Ask(question) => (1, Work::Ask(question)),
    };
    Ok(Invocation { log: cli.log, threads, work })
}

fn read(path: &Path) -> Result<Table, Refusal> {
    let unreadable = |reason: String| Refusal::Unreadable { path: path.to_owned(), reason };
    read_toml(path).map_err(unreadable)
}

/// A value of the file, and the flag it is the default of.
struct Setting {
    section: String,
    id: String,
    values: Vec<String>,
}

/// Every section with the flags that are its keys.
fn sections() -> Vec<(&'static str, Vec<Arg>)> {
    let arguments = |command: clap::Command| command.get_arguments().cloned().collect::<Vec<_>>();
    let of = |augment: fn(clap::Command) -> clap::Command| arguments(augment(clap::Command::new("section")));
    let mut sections = vec![
        ("log", of(LogArgs::augment_args)),
        ("process", of(ProcessArgs::augment_args)),
        ("admin", of(AdminArgs::augment_args)),
        ("rocketmq", of(RocketmqArgs::augment_args)),
        ("names", of(NamesArgs::augment_args)),
    ];
    let shared: Vec<_> =
        sections.iter().flat_map(|(_, arguments)| arguments).map(|arg| arg.get_id().clone()).collect();
    for (role, mut own) in [
        ("gateway", of(GatewayArgs::augment_args)),
        ("transfer", of(TransferArgs::augment_args)),
        ("intake", of(IntakeArgs::augment_args)),
    ] {
        own.retain(|arg| !shared.contains(arg.get_id()));
        sections.push((role, own));
    }
    sections
}

/// A key of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The section it stands in.
    pub section: String,
    /// Its name there.
    pub name: String,
    /// What holds where it is not set, as a flag would say it; nothing where that is nothing.
    pub default: Vec<String>,
}

/// Every key there is.
#[must_use]
pub fn keys() -> Vec<Key> {
    let of_section = |(section, arguments): (&str, Vec<Arg>)| {
        let key = |arg: &Arg| Key {
            section: section.to_owned(),
            name: key(section, arg),
            default: arg
                .get_default_values()
                .iter()
                .map(|value| value.to_string_lossy().into_owned())
                .collect(),
        };
        arguments.iter().map(key).collect::<Vec<_>>()
    };
    sections().into_iter().flat_map(of_section).collect()
}

/// A flag's key: its name, without the section's.
fn key(section: &str, arg: &Arg) -> String {
    let id = arg.get_id().as_str();
    id.strip_prefix(section).and_then(|rest| rest.strip_prefix('_')).unwrap_or(id).to_owned()
}

/// Everything the file sets, or everything wrong with it.
fn check(file: &Table) -> Result<Vec<Setting>, Vec<Problem>> {
    let sections = sections();
    let (mut settings, mut problems) = (Vec::new(), Vec::new());
    for (name, content) in file {
        let Some((section, arguments)) = sections.iter().find(|(section, _)| section == name) else {
            let known = sections.iter().map(|(section, _)| (*section).to_owned());
            problems.push(Problem { key: format!("[{name}]"), reason: unknown("section", name, known) });
            continue;
        };
        let Value::Table(content) = content else {
            let reason = format!("is a section: write [{name}]");
            problems.push(Problem { key: name.clone(), reason });
            continue;
        };
        for (name, value) in content {
            let problem = |reason| Problem { key: format!("{section}.{name}"), reason };
            let Some(arg) = arguments.iter().find(|arg| key(section, arg) == *name) else {
                let known = arguments.iter().map(|arg| key(section, arg));
                problems.push(problem(unknown("key", name, known)));
                continue;
            };
            match checked(arg, value) {
                Ok(values) => settings.push(Setting {
                    section: (*section).to_owned(),
                    id: arg.get_id().to_string(),
                    values,
                }),
                Err(reasons) => problems.extend(reasons.into_iter().map(problem)),
            }
        }
    }
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

/// The texts a flag would have been given, each one accepted by it.
fn checked(arg: &Arg, value: &Value) -> Result<Vec<String>, Vec<String>> {
    let several = matches!(arg.get_action(), ArgAction::Append);
    let values = match value {
        Value::Array(values) if several => values.iter().map(scalar).collect::<Option<Vec<_>>>(),
        // `orders = "orders-v1"` is what the flag writes as orders=orders-v1.
        Value::Table(pairs) if several => {
            pairs.iter().map(|(name, value)| Some(format!("{name}={}", scalar(value)?))).collect()
        }
        value => scalar(value).map(|text| match arg.get_value_delimiter() {
            Some(delimiter) if several => text.split(delimiter).map(str::to_owned).collect(),
            _ => vec![text],
        }),
    };
    let Some(values) = values else {
        let accepted = if several { "a text or a list of texts" } else { "a single value" };
        return Err(vec![format!("= {value}: {accepted} is accepted")]);
    };
    let reasons: Vec<String> =
        values.iter().filter_map(|text| Some(format!("= {text:?}: {}", refusal(arg, text)?))).collect();
    if reasons.is_empty() { Ok(values) } else { Err(reasons) }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(yes) => Some(yes.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

/// Why the flag would not take this text.
fn refusal(arg: &Arg, text: &str) -> Option<String> {
    let alone = Arg::new("value")
        .required(true)
        .allow_hyphen_values(true)
        .value_parser(arg.get_value_parser().clone());
    let command = clap::Command::new("check").no_binary_name(true).disable_help_flag(true).arg(alone);
    let error = command.try_get_matches_from([text]).err()?;
    if let Some(words) = error.get(ContextKind::ValidValue) {
        return Some(format!("one of {words} is accepted"));
    }
    let source = std::error::Error::source(&error).map(ToString::to_string);
    Some(source.unwrap_or_else(|| "is not accepted".to_owned()))
}

/// Whether the command is to follow a plan, which names servers of its own.
fn follows_a_plan(arguments: &[OsString]) -> bool {
    let Some(matches) = glance(arguments) else { return false };
    let plan = matches.subcommand().map(|(_, command)| command.try_get_one::<PathBuf>("plan"));
    matches!(plan, Some(Ok(Some(_))))
}

fn with_default(command: clap::Command, setting: Setting, planned: bool) -> clap::Command {
    let Setting { section, id, values } = setting;
    let has = |command: &clap::Command| command.get_arguments().any(|arg| arg.get_id() == id.as_str());
    let set = |command: clap::Command| command.mut_arg(&id, |arg| arg.default_values(values.clone()));
    if has(&command) {
        return set(command);
    }
    let finds_nsqds = id.ends_with("d_http_address");
    // The doctor looks at what both roles will have to bear; where both have a limit of one name, at the gateway's.
    let role = |name: &str| match &*section {
        "gateway" | "transfer" | "intake" if name == section => true,
        "intake" => false,
        "gateway" => name == "doctor",
        // Where nsqds are found, whoever moves a consumer needs to know as well.
        "transfer" if finds_nsqds => {
            ["scan", "doctor", "verify", "status", "cutover", "rollback", "complete", "rehearse"]
                .contains(&name)
        }
        "transfer" => name == "doctor" && !id.starts_with("max_"),
        _ => true,
    };
    let is_server = id == "namesrv" || finds_nsqds;
    let names: Vec<String> = command
        .get_subcommands()
        .filter(|role_command| role(role_command.get_name()) && has(role_command) && !(planned && is_server))
        .map(|role_command| role_command.get_name().to_owned())
        .collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, set))
}
