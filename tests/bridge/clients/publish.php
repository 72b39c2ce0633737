<?php
// Publishes a fixed set of bodies with PHP's curl: publish URL TOPIC FOLDER.

[, $url, $topic, $folder] = $argv;
$curl = curl_init();

function post(string $name, string $target, string $body, array $headers = []): void
{
    global $curl, $url, $topic;
    curl_setopt_array($curl, [
        CURLOPT_URL => $url . $target . $topic,
        CURLOPT_POST => true,
        CURLOPT_POSTFIELDS => $body,
        CURLOPT_HTTPHEADER => $headers,
        CURLOPT_RETURNTRANSFER => true,
    ]);
    $answer = curl_exec($curl);
    if ($answer === false) {
        fwrite(STDERR, curl_error($curl) . "\n");
        exit(1);
    }
    echo $name, ' ', curl_getinfo($curl, CURLINFO_RESPONSE_CODE), ' ', $answer, "\n";
}

post('bytes', '/pub?topic=', file_get_contents("$folder/bytes"));
post('large', '/pub?topic=', file_get_contents("$folder/large"));
post('empty', '/pub?topic=', '');
post('lines', '/mpub?topic=', file_get_contents("$folder/lines"));
post('batch', '/mpub?binary=true&topic=', file_get_contents("$folder/batch"));
post('chunks', '/pub?topic=', file_get_contents("$folder/bytes"), ['Transfer-Encoding: chunked']);
