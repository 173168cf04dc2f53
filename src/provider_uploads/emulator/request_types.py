"""The request messages of the API, field by field.

As in google.ai.generativelanguage.v1beta, with what google-genai sends of newer fields. Messages
nobody here looks into are taken as any object.
"""

from __future__ import annotations

from provider_uploads.emulator.messages import (
    ANY,
    BYTES,
    DURATION,
    ENUM,
    FLAG,
    INT32,
    INT64,
    NUMBER,
    STRUCT,
    TEXT,
    TIME,
    MapOf,
    Message,
    Repeated,
)

_TEXTS = Repeated(TEXT)

# --- files ---------------------------------------------------------------------------------------

FILE = Message(
    "File",
    name=TEXT,
    display_name=TEXT,
    mime_type=TEXT,
    size_bytes=INT64,
    create_time=TIME,
    update_time=TIME,
    expiration_time=TIME,
    sha256_hash=BYTES,
    uri=TEXT,
    download_uri=TEXT,
    state=ENUM,
    source=ENUM,
    error=STRUCT,
    video_metadata=STRUCT,
)
CREATE_FILE = Message("CreateFileRequest", file=FILE)
REGISTER_FILES = Message("RegisterFilesRequest", uris=_TEXTS)

# --- contents ------------------------------------------------------------------------------------

BLOB = Message("Blob", mime_type=TEXT, data=BYTES, display_name=TEXT)
FILE_DATA = Message("FileData", mime_type=TEXT, file_uri=TEXT, display_name=TEXT)
_FUNCTION_CALL = Message(
    "FunctionCall",
    id=TEXT,
    name=TEXT,
    args=STRUCT,
    partial_args=Repeated(STRUCT),
    will_continue=FLAG,
)
_FUNCTION_RESPONSE = Message(
    "FunctionResponse",
    id=TEXT,
    name=TEXT,
    response=STRUCT,
    parts=Repeated(
        Message(
            "FunctionResponsePart",
            inline_data=BLOB,
            file_data=FILE_DATA,
            media_processing=STRUCT,
            media_resolution=STRUCT,
            video_metadata=STRUCT,
            document_metadata=STRUCT,
            spreadsheet_metadata=STRUCT,
            audio_metadata=STRUCT,
        )
    ),
    will_continue=FLAG,
    scheduling=ENUM,
)
PART = Message(
    "Part",
    text=TEXT,
    inline_data=BLOB,
    file_data=FILE_DATA,
    function_call=_FUNCTION_CALL,
    function_response=_FUNCTION_RESPONSE,
    executable_code=Message("ExecutableCode", id=TEXT, language=ENUM, code=TEXT),
    code_execution_result=Message("CodeExecutionResult", id=TEXT, outcome=ENUM, output=TEXT),
    tool_call=Message("ToolCall", id=TEXT, tool_type=ENUM, args=STRUCT),
    tool_response=Message("ToolResponse", id=TEXT, tool_type=ENUM, response=STRUCT),
    thought=FLAG,
    thought_signature=BYTES,
    part_metadata=STRUCT,
    video_metadata=Message(
        "VideoMetadata",
        start_offset=DURATION,
        end_offset=DURATION,
        fps=NUMBER,
        content_layers=Repeated(ANY),
    ),
    media_resolution=ANY,  # an object, and in some SDKs its level alone
    audio_transcription=STRUCT,
    media_processing=STRUCT,
    speech_metadata=STRUCT,
    document_metadata=STRUCT,
    spreadsheet_metadata=STRUCT,
    audio_metadata=STRUCT,
)
CONTENT = Message("Content", role=TEXT, parts=Repeated(PART))

# --- what is asked for ---------------------------------------------------------------------------

_SCHEMA = Message(
    "Schema",
    type=ENUM,
    format=TEXT,
    title=TEXT,
    description=TEXT,
    nullable=FLAG,
    enum=_TEXTS,
    max_items=INT64,
    min_items=INT64,
    required=_TEXTS,
    min_properties=INT64,
    max_properties=INT64,
    min_length=INT64,
    max_length=INT64,
    pattern=TEXT,
    example=ANY,
    property_ordering=_TEXTS,
    default=ANY,
    minimum=NUMBER,
    maximum=NUMBER,
    additional_properties=ANY,
    ref=TEXT,
)
_SCHEMA.fields |= {
    "properties": MapOf(_SCHEMA),
    "items": _SCHEMA,
    "any_of": Repeated(_SCHEMA),
    "defs": MapOf(_SCHEMA),
}
_VOICE = Message(
    "VoiceConfig",
    prebuilt_voice_config=Message("PrebuiltVoiceConfig", voice_name=TEXT),
    replicated_voice_config=STRUCT,
    voice=TEXT,
)
GENERATION_CONFIG = Message(
    "GenerationConfig",
    candidate_count=INT32,
    stop_sequences=_TEXTS,
    max_output_tokens=INT32,
    temperature=NUMBER,
    top_p=NUMBER,
    top_k=NUMBER,
    seed=INT32,
    response_mime_type=TEXT,
    response_schema=_SCHEMA,
    response_json_schema=ANY,
    response_format=Repeated(STRUCT),
    presence_penalty=NUMBER,
    frequency_penalty=NUMBER,
    response_logprobs=FLAG,
    logprobs=INT32,
    enable_enhanced_civic_answers=FLAG,
    response_modalities=Repeated(ENUM),
    speech_config=Message(
        "SpeechConfig",
        voice_config=_VOICE,
        multi_speaker_voice_config=Message(
            "MultiSpeakerVoiceConfig",
            speaker_voice_configs=Repeated(
                Message("SpeakerVoiceConfig", speaker=TEXT, voice_config=_VOICE)
            ),
        ),
        language_code=TEXT,
    ),
    thinking_config=Message(
        "ThinkingConfig", include_thoughts=FLAG, thinking_budget=INT32, thinking_level=ENUM
    ),
    image_config=STRUCT,
    media_resolution=ENUM,
    translation_config=STRUCT,
    audio_transcription_config=STRUCT,
)
_FUNCTION = Message(
    "FunctionDeclaration",
    name=TEXT,
    description=TEXT,
    behavior=ENUM,
    parameters=_SCHEMA,
    parameters_json_schema=ANY,
    response=_SCHEMA,
    response_json_schema=ANY,
)
FILE_SEARCH = Message(
    "FileSearch",
    file_search_store_names=_TEXTS,
    top_k=INT32,
    metadata_filter=TEXT,
)
TOOL = Message(
    "Tool",
    function_declarations=Repeated(_FUNCTION),
    google_search_retrieval=STRUCT,
    code_execution=STRUCT,
    google_search=STRUCT,
    computer_use=STRUCT,
    url_context=STRUCT,
    file_search=FILE_SEARCH,
    mcp_servers=Repeated(STRUCT),
    google_maps=STRUCT,
)
TOOL_CONFIG = Message(
    "ToolConfig",
    function_calling_config=Message(
        "FunctionCallingConfig",
        mode=ENUM,
        allowed_function_names=_TEXTS,
        stream_function_call_arguments=FLAG,
    ),
    retrieval_config=Message(
        "RetrievalConfig",
        lat_lng=Message("LatLng", latitude=NUMBER, longitude=NUMBER),
        language_code=TEXT,
    ),
    include_server_side_tool_invocations=FLAG,
)
GENERATE_CONTENT = Message(
    "GenerateContentRequest",
    model=TEXT,
    system_instruction=CONTENT,
    contents=Repeated(CONTENT),
    tools=Repeated(TOOL),
    tool_config=TOOL_CONFIG,
    safety_settings=Repeated(Message("SafetySetting", category=ENUM, threshold=ENUM, method=ENUM)),
    generation_config=GENERATION_CONFIG,
    cached_content=TEXT,
    service_tier=ENUM,
    store=FLAG,
    labels=MapOf(TEXT),
    continuation_token=BYTES,
    generation_output_config=STRUCT,
)
COUNT_TOKENS = Message(
    "CountTokensRequest",
    model=TEXT,
    contents=Repeated(CONTENT),
    generate_content_request=GENERATE_CONTENT,
)

# --- embeddings, cached contents, file search ----------------------------------------------------

EMBED_CONTENT = Message(
    "EmbedContentRequest",
    model=TEXT,
    content=CONTENT,
    task_type=ENUM,
    title=TEXT,
    output_dimensionality=INT32,
)
BATCH_EMBED_CONTENTS = Message("BatchEmbedContentsRequest", requests=Repeated(EMBED_CONTENT))
CACHED_CONTENT = Message(
    "CachedContent",
    name=TEXT,
    model=TEXT,
    display_name=TEXT,
    system_instruction=CONTENT,
    contents=Repeated(CONTENT),
    tools=Repeated(TOOL),
    tool_config=TOOL_CONFIG,
    ttl=DURATION,
    expire_time=TIME,
    create_time=TIME,
    update_time=TIME,
    usage_metadata=STRUCT,
)
FILE_SEARCH_STORE = Message(
    "FileSearchStore",
    name=TEXT,
    display_name=TEXT,
    embedding_model=TEXT,
    create_time=TIME,
    update_time=TIME,
    active_documents_count=INT64,
    pending_documents_count=INT64,
    failed_documents_count=INT64,
    size_bytes=INT64,
)
_CUSTOM_METADATA = Repeated(
    Message(
        "CustomMetadata",
        key=TEXT,
        string_value=TEXT,
        string_list_value=Message("StringList", values=_TEXTS),
        numeric_value=NUMBER,
    )
)
_CHUNKING_CONFIG = Message(
    "ChunkingConfig",
    white_space_config=Message(
        "WhiteSpaceConfig", max_tokens_per_chunk=INT32, max_overlap_tokens=INT32
    ),
)
UPLOAD_TO_STORE = Message(
    "UploadToFileSearchStoreRequest",
    display_name=TEXT,
    mime_type=TEXT,
    custom_metadata=_CUSTOM_METADATA,
    chunking_config=_CHUNKING_CONFIG,
)
IMPORT_FILE = Message(
    "ImportFileRequest",
    file_name=TEXT,
    custom_metadata=_CUSTOM_METADATA,
    chunking_config=_CHUNKING_CONFIG,
)
