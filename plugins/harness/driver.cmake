# retentive_driver: drives plugin objects, for the harness. libretentive_driver.so: the same behind a C ABI, for pytest.
add_library(retentive_driver STATIC
    harness/expressions.cpp
    harness/plugin_calls.cpp
    harness/plugin_driver.cpp)
target_include_directories(retentive_driver PUBLIC ${CMAKE_CURRENT_SOURCE_DIR}/harness)
target_link_libraries(retentive_driver PUBLIC retentive_headers tensorrt_headers ${CMAKE_DL_LIBS})

add_library(retentive_driver_abi SHARED harness/plugin_driver_abi.cpp)
target_link_libraries(retentive_driver_abi PRIVATE retentive_driver)
set_target_properties(retentive_driver_abi PROPERTIES OUTPUT_NAME retentive_driver)

# The plugins over the C++ reference instead of the kernels: what enqueue hands over is checked where there is no GPU.
add_library(retentive_plugins_on_cpu SHARED harness/launch_on_cpu.cpp)
target_link_libraries(retentive_plugins_on_cpu PRIVATE retentive_glue retentive_common retentive_reference)
