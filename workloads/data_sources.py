"""Where public traces and texts are published, under which licence, and what each is good for. None is shipped."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataFile:
    """A published file; size and sha256 are None where we have not seen them published and do not hold the file."""

    path: str
    num_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class DataSource:
    """A data set. ``trace_format`` is the name ``--format`` knows it by; ``licence`` None: none was found, so ask."""

    name: str
    trace_format: str
    url: str
    licence: str | None
    good_for: str
    files: tuple[DataFile, ...] = ()

    @property
    def num_bytes(self) -> int | None:
        """Size of all files; None where one of them is unknown."""
        sizes = [file.num_bytes for file in self.files]
        known = [size for size in sizes if size is not None]
        return sum(known) if sizes and len(known) == len(sizes) else None


AZURE = "https://github.com/Azure/AzurePublicDataset"
QWEN = "https://github.com/alibaba-edu/qwen-bailian-usagetraces-anon"

DATA_SOURCES = (
    DataSource(
        "Mooncake",
        "mooncake",
        "https://github.com/kvcache-ai/Mooncake/tree/main/FAST25-release/traces",
        "Apache-2.0",
        "prefix sharing and multi-turn chat; no adapters",
        (
            DataFile("conversation_trace.jsonl"),
            DataFile(
                "synthetic_trace.jsonl", 1_136_313, "bd070915a98fc0ed264d7cfef2ce746002eb3076a695ec31ba2674c0111ec131"
            ),
        ),
    ),
    DataSource(
        "Azure LLM inference 2023",
        "azure-llm",
        f"{AZURE}/blob/master/AzureLLMInferenceDataset2023.md",
        "CC BY 4.0",
        "arrivals and lengths of two services; inputs are cut at a context cap",
        (DataFile("AzureLLMInferenceTrace_conv.csv"), DataFile("AzureLLMInferenceTrace_code.csv")),
    ),
    DataSource(
        "Azure LLM inference 2024",
        "azure-llm",
        f"{AZURE}/blob/master/AzureLLMInferenceDataset2024.md",
        "CC BY 4.0",
        "a week of arrivals and lengths",
        (DataFile("AzureLLMInferenceTrace_conv_1week.csv"), DataFile("AzureLLMInferenceTrace_code_1week.csv")),
    ),
    DataSource(
        "Azure Functions 2019",
        "azure-functions",
        f"{AZURE}/blob/master/AzureFunctionsDataset2019.md",
        "CC BY 4.0",
        "popularity and arrivals: top-n functions are n adapters (the paper's method)",
        (DataFile("azurefunctions-dataset2019.tar.xz"),),
    ),
    DataSource(
        "Azure Functions 2021",
        "azure-functions",
        f"{AZURE}/blob/master/AzureFunctionsInvocationTrace2021.md",
        "CC BY 4.0",
        "the same with a time per invocation, so burstiness below a minute is recorded; unpack the .rar first",
        (DataFile("AzureFunctionsInvocationTraceForTwoWeeksJan2021.rar"),),
    ),
    DataSource(
        "BurstGPT",
        "burstgpt",
        "https://github.com/HPMLL/BurstGPT",
        None,
        "bursts and lengths over months, two models",
        (
            DataFile(
                "data/BurstGPT_1.csv", 52_283_111, "4bb3783693d0a435686fbfc885615d2349bd067239079fa4b749f2e679e12122"
            ),
            DataFile(
                "data/BurstGPT_2.csv", 144_819_209, "44bf5942b03fca42c01a226a545ad3a750ec62688faecd67b6831c56a8928bf7"
            ),
        ),
    ),
    DataSource(
        "ServeGen",
        "servegen",
        "https://github.com/alibaba/ServeGen/tree/main/data",
        "Apache-2.0",
        "tenants: fitted arrivals and lengths per client; client -> adapter",
    ),
    DataSource(
        "Qwen-Bailian",
        "qwen-bailian",
        QWEN,
        "Apache-2.0",
        "sessions and prefix blocks of 16 tokens over two hours",
        (
            DataFile("qwen_traceA_blksz_16.jsonl"),
            DataFile("qwen_traceB_blksz_16.jsonl"),
            DataFile(
                "qwen_coder_blksz_16.jsonl",
                132_054_902,
                "3d74974cebb7bccb69b1ca6ea210a44d9a3033443c0271ed015327284dea1aff",
            ),
            DataFile(
                "qwen_thinking_blksz_16.jsonl",
                27_901_454,
                "41ac36d9d1b54d084eeb6b05e9d142ba9d02f8bf79cfc9fff418d8ab7cdee906",
            ),
        ),
    ),
    DataSource(
        "kv-cache-tester",
        "kv-cache-tester",
        "https://github.com/callanjfox/kv-cache-tester/tree/master/traces",
        "Apache-2.0",
        "long agents: coding sessions with prompts of 80k tokens and more; some sessions come twice",
    ),
    DataSource(
        "LMCache agent traces",
        "lmcache-agent",
        "https://github.com/LMCache/lmcache-agent-trace",
        "Apache-2.0",
        "agents with text (tau-bench)",
    ),
    DataSource(
        "Taskmaster 1-4",
        "taskmaster",
        "https://github.com/google-research-datasets/Taskmaster",
        "CC BY 4.0",
        "agents: task dialogs of short turns; domain -> adapter",
        (
            DataFile(
                "TM-4-2024/data/data_00.json",
                3_923_922,
                "d9440d1a46e6ba9f8c680a77a7dc7a42b0b3266ef555aeac6160b0d5ac37c647",
            ),
            DataFile(
                "TM-4-2024/data/data_01.json",
                3_898_413,
                "2577d6af1c9d7cc5540d5193206d35b000ebeff59925c1076ce724f1a85b8964",
            ),
            DataFile(
                "TM-4-2024/data/data_02.json",
                3_919_414,
                "b353618d9709c6bdeafa08682526e04047ad28d5f9acd65ed7878482a90d49df",
            ),
            DataFile(
                "TM-4-2024/data/data_03.json",
                3_934_738,
                "45fe8eb52af674b69972d172c911f9cfd6f5044b61338b524997edf1a4861641",
            ),
        ),
    ),
    DataSource(
        "MultiDoGO",
        "multidogo",
        "https://github.com/awslabs/multi-domain-goal-oriented-dialogues-dataset",
        "CDLA-Permissive-1.0",
        "agents: customers of six domains; domain -> adapter",
    ),
    DataSource(
        "Schema-Guided Dialogue",
        "sgd",
        "https://github.com/google-research-datasets/dstc8-schema-guided-dialogue",
        "CC BY-SA 4.0",
        "agents: tool schemas as shared prefixes; service -> adapter",
    ),
    DataSource(
        "Chatbot Arena Conversations",
        "lmsys",
        "https://huggingface.co/datasets/lmsys/chatbot_arena_conversations",
        "on its page, to be accepted before download",
        "chat: model -> adapter, with times",
    ),
    DataSource(
        "OPUS-100",
        "opus",
        "https://opus.nlpl.eu/opus-100.php",
        "that of each corpus it samples",
        "translation: directed pair -> adapter",
    ),
    DataSource(
        "MGSM",
        "opus",
        "https://github.com/google-research/url-nlp/tree/main/mgsm",
        "CC BY 4.0",
        "translation at hand: 250 problems in 11 languages",
        (DataFile("mgsm_en.tsv", 61_299, "50021d0f28cc957edcb44e7806425b1c7fbd648ddcb9e0a8ec689d10e57d40fa"),),
    ),
)
