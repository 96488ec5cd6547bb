<?php

// symfony/mercure: from a checkout that SYMFONY_MERCURE names, otherwise from Debian's package; what it needs is
// Debian's in both cases. Arguments: "publish", the hub's URL, data and topics; or "cookie", the hub's URL and topics.

declare(strict_types=1);

use Symfony\Component\HttpFoundation\Request;
use Symfony\Component\Mercure\Authorization;
use Symfony\Component\Mercure\Hub;
use Symfony\Component\Mercure\HubRegistry;
use Symfony\Component\Mercure\Jwt\FactoryTokenProvider;
use Symfony\Component\Mercure\Jwt\LcobucciFactory;
use Symfony\Component\Mercure\Jwt\StaticTokenProvider;
use Symfony\Component\Mercure\Update;

set_time_limit((int) getenv('LIMIT'));
set_error_handler(static fn (int $level, string $message) => throw new ErrorException($message, 0, $level), E_ALL & ~E_DEPRECATED & ~E_USER_DEPRECATED);

const PREFIX = 'Symfony\\Component\\Mercure\\';
$checkout = (string) getenv('SYMFONY_MERCURE');
if ('' !== $checkout) {
    spl_autoload_register(static function (string $class) use ($checkout): void {
        $file = $checkout.'/src/'.strtr(substr($class, strlen(PREFIX)), '\\', '/').'.php';
        if (str_starts_with($class, PREFIX) && is_file($file)) {
            require $file;
        }
    });
    foreach (['HttpClient', 'HttpFoundation', 'WebLink'] as $part) {
        require_once "Symfony/Component/$part/autoload.php";
    }
} else {
    require_once 'Symfony/Component/Mercure/autoload.php';
}
require_once 'Lcobucci/JWT/autoload.php';

[, $action, $url] = $argv;
$token = (string) getenv('TOKEN');
$factory = '' === $token ? new LcobucciFactory((string) getenv('SECRET')) : null;
$provider = null === $factory ? new StaticTokenProvider($token) : new FactoryTokenProvider($factory, [], ['*']);
$hub = new Hub($url, $provider, $factory);

if ('publish' === $action) {
    $told = ['id' => $hub->publish(new Update(array_slice($argv, 4), $argv[3], '' !== (string) getenv('PRIVATE')))];
} else {
    $cookie = (new Authorization(new HubRegistry($hub)))->createCookie(Request::create($url), array_slice($argv, 3));
    $told = ['name' => $cookie->getName(), 'value' => $cookie->getValue(), 'path' => $cookie->getPath()];
}
echo json_encode($told), "\n";
